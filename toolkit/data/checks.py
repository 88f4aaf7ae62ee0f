"""Rows become examples: columns and labels mapped, every row checked, train and eval compared."""

import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from toolkit.data.holding_back import hold_back
from toolkit.data.sources import Row, describe, read_rows
from toolkit.errors import DataError
from toolkit.recipe import Recipe, Source
from toolkit.task import Example


@dataclass(frozen=True)
class Overlap:
    """Distinct texts of the evaluation rows that also stand in the training rows."""

    premises: int
    hypotheses: int
    pairs: int


def load_examples(
    recipe: Recipe, source: Source, *, is_training: bool = False, is_foreign: bool = False
) -> list[Example]:
    """Read a source and check each row.

    Args:
        recipe: names the columns, the labels and the columns to slice by.
        source: where the rows are.
        is_training: training rows need every label, and no columns to slice by.
        is_foreign: rows that the recipe was not written for need no id and no columns to slice by.

    Raises:
        DataError: naming the column, or the first rows that cannot be used and why.
    """
    rows, columns = read_rows(source)
    names = recipe.data.columns
    slices = () if is_training else recipe.evaluation.slice_by
    if is_foreign:
        slices = tuple(column for column in slices if column in columns)
    named = [names.id] if names.id and not is_foreign else []
    needed = [names.premise, names.hypothesis, names.label, *named, *slices]
    if missing := [column for column in needed if column not in columns]:
        raise DataError(
            f"{describe(source)} has no column {missing[0]!r}; its columns are {', '.join(map(repr, columns))}.",
            hint=_columns_hint(columns),
        )
    examples, refused = [], []
    for number, row in enumerate(rows, 1):
        try:
            examples.append(_example(recipe, row, number, slices))
        except DataError as error:
            refused.append(f"row {number}: {error}")
    if refused:
        more = f" ({len(refused)} rows cannot be used)" if len(refused) > 1 else ""
        raise DataError(f"{describe(source)}, {'; '.join(refused[:3])}{more}.", hint=_label_hint(recipe))
    if is_training:
        _refuse_absent_label(recipe, examples, describe(source))
    return examples


def _columns_hint(columns: Sequence[str]) -> str:
    # What a table's program writes where commas stand in numbers.
    if len(columns) == 1 and (found := next((mark for mark in ";\t|" if mark in columns[0]), None)):
        return f"The columns stand between {found!r}, not commas: save the file with commas, or with tabs as .tsv."
    return "Name the columns in data.columns (and evaluation.slice_by)."


def _refuse_absent_label(recipe: Recipe, examples: Sequence[Example], where: str) -> None:
    if absent := [label for label, count in label_counts(recipe, examples).items() if count == 0]:
        raise DataError(
            f"{where} has no row of label {absent[0]!r}, so the model could not learn it.",
            hint="Remove the label from task.labels, add rows, or raise data.train.limit.",
        )


def row_texts(recipe: Recipe, row: Row) -> tuple[str, str]:
    """A row's premise and hypothesis without outer white space.

    Raises:
        DataError: one of them is no text.
    """
    texts = []
    for column in (recipe.data.columns.premise, recipe.data.columns.hypothesis):
        text = row.get(column)
        if not isinstance(text, str) or not text.strip():
            raise DataError(f"column {column!r} holds {text!r}, not a text")
        _refuse_half_characters(column, text)
        texts.append(text.strip())
    return texts[0], texts[1]


def _refuse_half_characters(column: str, text: str) -> None:
    """A lone surrogate has no UTF-8: neither a tokenizer nor a file could take it."""
    if not text.isascii() and any("\ud800" <= letter <= "\udfff" for letter in text):
        raise DataError(f"column {column!r} holds half of a character (a lone surrogate)")


def _example(recipe: Recipe, row: Row, number: int, slices: Sequence[str]) -> Example:
    names = recipe.data.columns
    premise, hypothesis = row_texts(recipe, row)
    for column in [*([names.id] if names.id else []), *slices]:
        _refuse_half_characters(column, str(row.get(column)))
    return Example(
        id=str(row[names.id]) if names.id and row.get(names.id) is not None else str(number),
        premise=premise,
        hypothesis=hypothesis,
        label=_label(recipe, row.get(names.label)),
        slices={column: str(row.get(column)) for column in slices},
    )


def _label(recipe: Recipe, value: Any) -> str:
    mapping = {str(key): label for key, label in (recipe.data.label_map or {}).items()}
    text = str(value).strip()
    label = mapping.get(text, text)
    if label not in recipe.task.labels:
        raise DataError(f"its label is {value!r}, which is not one of {', '.join(recipe.task.labels)}")
    return label


def _label_hint(recipe: Recipe) -> str:
    example = {0: recipe.task.labels[0]}
    return f"Mend the rows, or map other names of the labels with data.label_map, e.g. {example}."


def label_counts(recipe: Recipe, examples: Sequence[Example]) -> dict[str, int]:
    """Rows of each label, in the order of the labels."""
    counts = Counter(example.label for example in examples)
    return {label: counts[label] for label in recipe.task.labels}


def fingerprint(examples: Sequence[Example]) -> str:
    """SHA-256 of the rows' ids, texts, labels and order, as hexadecimal."""
    digest = hashlib.sha256()
    for example in examples:
        row = [example.id, example.premise, example.hypothesis, example.label]
        digest.update(json.dumps(row, ensure_ascii=False).encode() + b"\n")
    return digest.hexdigest()


def find_overlap(train: Sequence[Example], evaluation: Sequence[Example]) -> Overlap:
    """Count what evaluation shares with training, letter for letter."""
    return Overlap(
        premises=len({row.premise for row in train} & {row.premise for row in evaluation}),
        hypotheses=len({row.hypothesis for row in train} & {row.hypothesis for row in evaluation}),
        pairs=len({(r.premise, r.hypothesis) for r in train} & {(r.premise, r.hypothesis) for r in evaluation}),
    )


@dataclass(frozen=True)
class Splits:
    """The checked training and evaluation rows, those held back, and what was found out about them.

    `held_back` are rows of data.train that training does not see; no premise stands in both.
    """

    train: list[Example]
    eval: list[Example]
    overlap: Overlap
    held_back: list[Example] = field(default_factory=list)

    @property
    def calibration(self) -> list[Example]:
        """The held-back rows whose premise no evaluation row has either: what a temperature may be fitted on."""
        premises = {row.premise for row in self.eval}
        return [row for row in self.held_back if row.premise not in premises]

    def record(self, recipe: Recipe) -> dict[str, Any]:
        """Counts, fingerprints and overlap, for run.json."""
        parts = [("train", recipe.data.train, self.train), ("eval", recipe.data.eval, self.eval)]
        if self.held_back:
            parts.insert(1, ("calibration", recipe.data.train, self.held_back))
        return {
            part: {
                "source": describe(source),
                "rows": len(rows),
                "labels": label_counts(recipe, rows),
                "fingerprint": fingerprint(rows),
            }
            for part, source, rows in parts
        } | {"overlap": asdict(self.overlap)}


def _with_names_of(trained: Recipe | None, recipe: Recipe) -> Recipe:
    if trained is None or trained.data.train.path != recipe.data.train.path:
        return recipe
    names = {"columns": trained.data.columns, "label_map": trained.data.label_map}
    return recipe.model_copy(update={"data": recipe.data.model_copy(update=names)})


def load_splits(recipe: Recipe, *, is_foreign: bool = False, trained: Recipe | None = None) -> Splits:
    """Load all parts of the data and refuse a pair that stands in training and evaluation rows.

    Args:
        recipe: names the sources, and the share of the training rows to hold back.
        is_foreign: of the evaluation rows, as for `load_examples`.
        trained: the recipe of the run, whose names of columns and labels hold for the training rows, where `recipe`
            may name those of other evaluation rows.

    Raises:
        DataError: as `load_examples` and `hold_back`, or when evaluation pairs were trained on and the recipe does not
            allow it.
    """
    rows = load_examples(_with_names_of(trained, recipe), recipe.data.train, is_training=True)
    evaluation = load_examples(recipe, recipe.data.eval, is_foreign=is_foreign)
    overlap = find_overlap(rows, evaluation)
    if overlap.pairs and not recipe.data.allow_overlap:
        raise DataError(
            f"{overlap.pairs} pairs of data.eval stand in data.train too, so the evaluation would measure memory.",
            hint="Remove them from one of the two, or set data.allow_overlap: true.",
        )
    train, held_back = hold_back(rows, recipe.data.calibration_share, recipe.seed)
    where = f"{describe(recipe.data.train)} without the share {recipe.data.calibration_share:g} that is held back"
    _refuse_absent_label(recipe, train, where)
    return Splits(train, evaluation, overlap, held_back)
