"""Evaluation files of tasks with one or three inputs: predictions, baselines, warnings and comparisons."""

import json
from pathlib import Path

import pytest

from tests.evaluation.run_files import LABELS, make_predictions, make_run, write_evaluation
from toolkit.data.example import Example
from toolkit.errors import DataError
from toolkit.evaluation import evaluation_files
from toolkit.evaluation.baselines import answer_warnings, baseline_accuracies, data_warnings
from toolkit.evaluation.comparison import compare
from toolkit.evaluation.evaluation import load_evaluation
from toolkit.evaluation.metrics import compute_metrics
from toolkit.runs.run_folder import RunFolder

QA = ("question", "context", "reply")
CLUES = dict(zip(LABELS, ("oui", "peut-être", "jamais"), strict=True))


def qa_run(folder: Path) -> RunFolder:
    return make_run(folder, task={"user": "{question}\n{context}\n{reply}"})


def rows_with_clue(name: str, count: int) -> list[Example]:
    """Make rows of three inputs, one of which reveals the label."""
    gold = [LABELS[i % 3] for i in range(count)]
    return [
        Example(str(i), {key: f"mot{i}" + f" {CLUES[label]}" * (key == name) for key in QA}, label)
        for i, label in enumerate(gold)
    ]


@pytest.mark.parametrize("inputs", [("text",), QA], ids=["one input", "three inputs"])
def test_predictions_have_a_field_per_input(tmp_path: Path, inputs: tuple[str, ...]) -> None:
    examples, predictions = make_predictions(12, inputs=inputs)
    metrics = {"n": 12, "labels": list(LABELS), "model": "adapter", "mode": "constrained", "calibration": None}
    metrics |= compute_metrics(examples, predictions)
    evaluation_files.write_evaluation(tmp_path / "adapter", examples, predictions, metrics, "0" * 64)
    lines = (tmp_path / "adapter" / "predictions.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    assert [list(row) for row in rows] == [["id", *inputs, "label", "prediction", "probabilities"]] * 12
    assert [{name: row[name] for name in inputs} for row in rows] == [dict(row.inputs) for row in examples]


def test_baselines_are_named_after_inputs() -> None:
    rows = rows_with_clue("context", 90)
    accuracies = baseline_accuracies(rows[:60], rows[60:], LABELS)
    assert list(accuracies) == ["random", "majority", "question_only", "context_only", "reply_only", "all_inputs"]
    assert accuracies["context_only"] == accuracies["all_inputs"] == 1.0
    assert accuracies["question_only"] == pytest.approx(1 / 3)
    (warning,) = data_warnings(accuracies, rows[60:])
    assert warning.startswith("A classifier that sees only the context is right on 100.0%")
    assert warning.endswith("how the context is written, not from comparing it with the question and reply.")


def test_single_input_has_one_bag_of_words() -> None:
    rows = [Example(str(i), {"text": f"mot{i} {CLUES[LABELS[i % 3]]}"}, LABELS[i % 3]) for i in range(90)]
    accuracies = baseline_accuracies(rows[:60], rows[60:], LABELS)
    assert accuracies == {"random": 1 / 3, "majority": pytest.approx(1 / 3), "all_inputs": 1.0}
    assert data_warnings(accuracies, rows[60:]) == [], "a text that predicts its label is no flaw"
    (warning,) = answer_warnings([LABELS[i % 2] for i in range(30)], rows[60:], accuracies)
    assert warning.startswith("A linear bag-of-words classifier is right on 100.0% of the rows, this model on only")


def test_texts_without_words_have_baselines() -> None:
    rows = [Example(str(i), {"text": "🎉" if i % 3 else "😡"}, "good" if i % 3 else "bad") for i in range(30)]
    accuracies = baseline_accuracies(rows, rows, ("good", "bad"))
    assert accuracies["all_inputs"] == accuracies["majority"] == pytest.approx(2 / 3)


def test_comparison_follows_the_inputs(tmp_path: Path) -> None:
    run = qa_run(tmp_path / "run")
    for seed, name in enumerate(("adapter", "base")):
        write_evaluation(run, name, seed=5)
        if seed:  # another prediction in the first row
            path = run.eval / name / "predictions.jsonl"
            first, *rest = path.read_text(encoding="utf-8").splitlines()
            row = json.loads(first)
            row["prediction"] = next(label for label in LABELS if label != row["prediction"])
            path.write_text("\n".join([json.dumps(row, ensure_ascii=False), *rest]) + "\n", encoding="utf-8")
    comparison = compare([run.eval / "adapter", run.eval / "base"])
    assert (comparison.record["inputs"], comparison.record["groups"]) == (list(QA), 90)
    assert "premise_groups" not in comparison.record
    assert comparison.report().startswith("90 rows of 90 question texts\n")
    (line,) = (comparison.folder / "differences.jsonl").read_text(encoding="utf-8").splitlines()
    assert list(json.loads(line)) == ["id", *QA, "label", "predictions"]


def test_rows_differ_if_any_input_differs(tmp_path: Path) -> None:
    run = qa_run(tmp_path / "run")
    for name in ("adapter", "base"):
        write_evaluation(run, name)
    path = run.eval / "base" / "predictions.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines()
    lines[3] = json.dumps(json.loads(lines[3]) | {"reply": "autre"}, ensure_ascii=False)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"row 4 has reply .* in the first and 'autre' in the second"):
        compare([run.eval / "adapter", run.eval / "base"])


def test_other_inputs_cannot_be_compared(tmp_path: Path) -> None:
    runs = [make_run(tmp_path / "nli"), qa_run(tmp_path / "qa")]
    for run in runs:
        write_evaluation(run, "adapter")
    with pytest.raises(DataError, match="nli/adapter has rows of premise and hypothesis, but qa/adapter has rows of q"):
        compare([run.eval / "adapter" for run in runs])


def test_order_of_inputs_does_not_matter(tmp_path: Path) -> None:
    """Two prompts with the same inputs in another order are evaluated on the same rows."""
    runs = [qa_run(tmp_path / "a"), make_run(tmp_path / "b", task={"user": "{reply} {question} {context}"})]
    for run in runs:
        write_evaluation(run, "adapter")
    assert compare([run.eval / "adapter" for run in runs]).differing_rows == 0


def test_older_metrics_are_of_sentence_pairs(tmp_path: Path) -> None:
    """Evaluations from before inputs had names are those of a premise and a hypothesis."""
    run = make_run(tmp_path / "run")
    for name in ("adapter", "base"):
        metrics = write_evaluation(run, name)
        del metrics["inputs"]
        (run.eval / name / "metrics.json").write_text(json.dumps(metrics), encoding="utf-8")
    assert load_evaluation(run.eval / "adapter").inputs == ("premise", "hypothesis")
    assert compare([run.eval / "adapter", run.eval / "base"]).record["premise_groups"] == 90
