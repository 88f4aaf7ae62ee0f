"""The preflight report about dev rows and about classes of different sizes."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from toolkit.planning.preflight import Preflight, run_preflight
from toolkit.recipe.schema import Recipe

LABELS = ["entailment", "neutral", "contradiction"]


def write_rows(path: Path, **counts: int) -> str:
    """Write this number of rows of each label, each with its own premise, and return the path."""
    labels = [label for label, count in counts.items() for _ in range(count)]
    rows = [{"premise": f"{path.stem} {i}", "hypothesis": f"h{i}", "label": label} for i, label in enumerate(labels)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


@pytest.fixture
def check(make_recipe: Callable[..., Recipe], tmp_path: Path) -> Callable[..., Preflight]:
    """A function that runs the preflight on 26 training, 5 evaluation and 4 dev rows."""
    train = write_rows(tmp_path / "train.jsonl", entailment=4, neutral=12, contradiction=10)
    evaluation = write_rows(tmp_path / "eval.jsonl", entailment=2, neutral=2, contradiction=1)
    dev = write_rows(tmp_path / "dev.jsonl", entailment=1, neutral=2, contradiction=1)
    return lambda *overrides: run_preflight(
        make_recipe(
            f"data={{train: {{path: {train}}}, eval: {{path: {evaluation}}}, dev: {{path: {dev}}}}}",
            "evaluation.slice_by=[]", *overrides,
        )
    )  # fmt: skip


def test_dev_rows_are_encoded_and_counted(check: Callable[..., Preflight]) -> None:
    preflight = check()
    assert preflight.dev_rows == preflight.row_tokenizer.encode(preflight.splits.dev) and len(preflight.dev_rows) == 4
    assert "dev         4 rows: 1 entailment, 2 neutral, 1 contradiction\neval        5 rows" in preflight.report()
    assert (preflight.tokens.rows, preflight.scored_tokens.rows) == (26, 9)
    record = preflight.record()
    assert record["data"]["dev"]["rows"] == 4
    counts = {"repeats": 0, "conflicts": 0, "leaked": 0, "leaked_dev": 0, "evaluated_dev": 0}
    assert record["near_duplicates"] == counts
    expected = "0 evaluation rows also occur in training, 0 dev rows also occur in training, 0 in evaluation"
    assert expected in preflight.report()


def test_truncated_dev_rows_are_counted(check: Callable[..., Preflight], tmp_path: Path) -> None:
    path = tmp_path / "dev.jsonl"
    rows = path.read_text(encoding="utf-8").splitlines()
    longest = check().longest_row
    path.write_text("\n".join([rows[0].replace("dev 0", "dev 0" + " mot" * 40), *rows[1:]]), encoding="utf-8")
    assert check().longest_row > longest
    report = check(f"model.max_seq_length={longest}").report()
    assert "premises of 1 dev rows are cut" in report
    assert "training rows are cut" not in report and "evaluation rows are cut" not in report


def test_shared_dev_rows_are_reported(check: Callable[..., Preflight], tmp_path: Path) -> None:
    path = tmp_path / "dev.jsonl"
    path.write_bytes(path.read_bytes() + (tmp_path / "train.jsonl").read_bytes())
    report = check("data.allow_overlap=true").report()
    assert "            between dev and train: 26 premises, 26 hypotheses, 26 pairs" in report
    # The hypotheses are h0, h1, ... in every file.
    assert "            between dev and eval: 0 premises, 5 hypotheses, 0 pairs" in report


def test_labels_without_dev_rows_are_a_warning(check: Callable[..., Preflight]) -> None:
    """A limit on sorted rows can leave out a label, and validation would then reward forgetting it."""
    warning = "WARNING     labels without dev rows, which validation cannot measure: contradiction"
    assert warning in check("data.dev.limit=3").report()
    assert "labels without" not in check().report()


def test_class_imbalance_is_a_warning(check: Callable[..., Preflight]) -> None:
    warning = (
        "WARNING     the majority class, neutral, has 3.0 times as many training rows as the smallest, entailment; "
        "always predicting neutral scores 40.0% on the evaluation rows. training.class_weights: balanced"
    )
    assert warning in check().report()
    merged = check("evaluation.merge_labels={rest: [neutral, contradiction]}").report()
    assert "always predicting neutral scores 60.0%" in merged
    # Not above the factor of two.
    assert "WARNING" not in check("data.train.limit=8", "task.labels=[entailment, neutral]", "data.eval.limit=3",
                                  "data.dev.limit=2").report()  # fmt: skip


def test_class_weights_are_shown(check: Callable[..., Preflight]) -> None:
    report = check("training.class_weights={neutral: 0.5}").report()
    assert "weights     of a row: entailment 1, neutral 0.5, contradiction 1" in report
    assert "WARNING" not in report
    # 26 rows / (3 labels * rows of the label)
    balanced = check("training.class_weights=balanced").report()
    assert "weights     of a row: entailment 2.17, neutral 0.722, contradiction 0.867" in balanced


def test_untrained_chat_is_a_warning(check: Callable[..., Preflight]) -> None:
    assert "WARNING     training.objective: labels trains the comparison" in check("training.objective=labels").report()
    assert "training.objective" not in check().report()
