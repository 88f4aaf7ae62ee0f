"""Lines of the preflight report about rows: their number in each split, and the balance of the classes."""

from collections.abc import Iterator, Sequence

from toolkit.data.examples import label_counts
from toolkit.data.messages import list_names
from toolkit.data.splits import Splits
from toolkit.data.target_weights import resolve_class_weights
from toolkit.evaluation.merged_labels import MergedLabels
from toolkit.recipe.schema import Recipe
from toolkit.utils.formatting import join_names

_LISTED_LABELS = 20
_HIGHEST_RATIO = 2  # of the rows of two classes


def describe_splits(recipe: Recipe, splits: Splits) -> Iterator[str]:
    """Yield a line for each split, and lines about rows that several splits share."""
    yield f"train       {format_counts(label_counts(recipe, splits.train))}"
    if splits.calibration_set:
        yield f"held out    {format_counts(label_counts(recipe, splits.calibration_set))}, for calibration"
    if splits.dev:
        counts = label_counts(recipe, splits.dev)
        yield f"dev         {format_counts(counts)}"
        if absent := [label for label, count in counts.items() if not count]:
            yield f"WARNING     labels without dev rows, which validation cannot measure: {list_names(absent)}"
    yield f"eval        {format_counts(label_counts(recipe, splits.eval))}"
    yield f"overlap     {splits.overlap}"
    for name, overlap in splits.dev_overlap.items():
        if overlap.rows or any(overlap.inputs.values()):
            yield f"            between dev and {name}: {overlap}"
    data, tied = recipe.data, sum(row.is_tied for row in splits.train)
    if tied and (data.eval_share or data.dev_share or data.calibration_share):
        yield (
            f"tied        {tied:,} training rows have several most probable labels; they and their groups are never "
            "held out, so held-out rows are clearer than training rows"
        )


def describe_balance(recipe: Recipe, splits: Splits) -> Iterator[str]:
    """Yield the weights of the classes, or a warning if some have many more training rows than others."""
    if recipe.training.class_weights != "none":
        yield f"weights     {_describe_weights(recipe.task.labels, resolve_class_weights(recipe, splits.train))}"
        return
    counts = {label: count for label, count in label_counts(recipe, splits.train).items() if count}
    # Of equal counts, the first in alphabetical order, as in the majority baseline of an evaluation.
    largest, smallest = (choose(sorted(counts), key=lambda label: counts[label]) for choose in (max, min))
    ratio = counts[largest] / counts[smallest]
    if ratio <= _HIGHEST_RATIO:
        return
    merged = MergedLabels.of(recipe)
    evaluated = merged.rename(splits.eval)
    accuracy = sum(row.label == merged.name(largest) for row in evaluated) / len(evaluated)
    yield (
        f"WARNING     the majority class, {largest}, has {ratio:.1f} times as many training rows as the smallest, "
        f"{smallest}; always predicting {largest} scores {accuracy:.1%} on the evaluation rows. "
        "training.class_weights: balanced gives all classes the same total weight"
    )


def _describe_weights(labels: Sequence[str], weights: Sequence[float]) -> str:
    if len(labels) > _LISTED_LABELS:
        return f"of the rows of {len(labels):,} labels: from {min(weights):.3g} to {max(weights):.3g}"
    return "of a row: " + join_names(f"{label} {weight:.3g}" for label, weight in zip(labels, weights, strict=True))


def format_counts(counts: dict[str, int]) -> str:
    """Return the number of rows of each label as text; with many labels, the smallest and the largest number."""
    rows, labels = sum(counts.values()), sorted(counts, key=lambda label: counts[label])
    if len(counts) > _LISTED_LABELS:
        fewest, most = (f"{counts[label]:,} {label}" for label in (labels[0], labels[-1]))
        return f"{rows:,} rows of {len(counts):,} labels: from {fewest} to {most}"
    return f"{rows:,} rows: {join_names(f'{count:,} {label}' for label, count in counts.items())}"
