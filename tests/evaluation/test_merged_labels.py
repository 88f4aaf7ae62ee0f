"""Merged labels: probabilities are added, metrics and files use the sums, and no two evaluations share a folder."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.special import log_softmax, softmax

from tests.nli import nli
from toolkit.api.run import Run, open_run
from toolkit.evaluation.calibration import calibrate
from toolkit.evaluation.merged_labels import MergedLabels
from toolkit.evaluation.metrics import Predictions, compute_metrics
from toolkit.recipe.schema import Recipe
from toolkit.runs.run_folder import RunFolder

LABELS = ("entailment", "neutral", "contradiction")
MERGED = MergedLabels(LABELS, {"not_entailment": ("neutral", "contradiction")})
NOTHING = MergedLabels(LABELS, {})
TWO_WAY = {"evaluation.merge_labels": {"not_entailment": ["neutral", "contradiction"]}}


def test_probabilities_are_added() -> None:
    log_likelihoods = np.log([[0.4, 0.3, 0.3], [0.6, 0.1, 0.3]]) - 2.0
    assert MERGED.names == ("entailment", "not_entailment")
    np.testing.assert_allclose(np.exp(MERGED.log_probabilities(log_likelihoods)), [[0.4, 0.6], [0.6, 0.4]])
    # The most probable label of the first row is entailment, but the largest sum is that of the others.
    assert MERGED.predict(["entailment", "entailment"], log_likelihoods) == ["not_entailment", "entailment"]


def test_nothing_merged_changes_nothing() -> None:
    log_likelihoods = np.random.default_rng(0).normal(size=(20, 3))
    assert NOTHING.names == LABELS and NOTHING.record() == {}
    assert (NOTHING.log_probabilities(log_likelihoods) == log_softmax(log_likelihoods, axis=1)).all()
    assert NOTHING.predict(["neutral", None], None) == ["neutral", None]
    rows = [nli("1", "p", "h", "neutral")]
    assert NOTHING.rename(rows) == rows


def test_order_is_that_of_first_members() -> None:
    merged = MergedLabels(("a", "b", "c", "d"), {"x": ("d", "b"), "c": ("c",)})
    assert merged.names == ("a", "x", "c")
    np.testing.assert_allclose(
        np.exp(merged.log_probabilities(np.log([[0.1, 0.2, 0.3, 0.4]]))), [[0.1, 0.6, 0.3]], rtol=1e-12
    )


def test_rows_have_original_or_merged_labels() -> None:
    labels = ["entailment", "neutral", "contradiction", "not_entailment"]
    rows = MERGED.rename([nli(str(i), "p", "h", label) for i, label in enumerate(labels)])
    assert [row.label for row in rows] == ["entailment", *["not_entailment"] * 3]


def test_generated_answers_are_renamed() -> None:
    assert MERGED.predict(["neutral", None, "entailment"], None) == ["not_entailment", None, "entailment"]


def test_metrics_equal_those_of_summed_probabilities() -> None:
    random = np.random.default_rng(1)
    log_likelihoods = random.normal(size=(60, 3)) * 2
    rows = [nli(str(i), f"p{i // 3}", "h", LABELS[i % 3]) for i in range(60)]
    probabilities = softmax(log_likelihoods, axis=1)
    sums = np.stack([probabilities[:, 0], probabilities[:, 1] + probabilities[:, 2]], axis=1)
    predicted = MERGED.predict(["neutral"] * 60, log_likelihoods)
    merged = compute_metrics(MERGED.rename(rows), Predictions(MERGED.names, predicted, log_likelihoods, merged=MERGED))
    plain = compute_metrics(MERGED.rename(rows), Predictions(MERGED.names, list(predicted), np.log(sums)))
    assert merged.keys() == plain.keys()
    for key in merged:
        assert merged[key] == (pytest.approx(plain[key]) if key in ("nll", "ece", "brier") else plain[key]), key
    assert merged["greedy_vs_likelihood_disagreements"] == 0
    assert np.array(merged["confusion_matrix"]).shape == (2, 2)


def test_temperature_acts_before_adding() -> None:
    log_likelihoods = np.log([[0.4, 0.3, 0.3]])
    powers = np.array([0.4, 0.3, 0.3]) ** 0.5
    expected = [powers[0] / powers.sum(), (powers[1] + powers[2]) / powers.sum()]
    np.testing.assert_allclose(np.exp(MERGED.log_probabilities(log_likelihoods, 2.0)), [expected])
    random = np.random.default_rng(2)
    scores, gold = random.normal(size=(50, 3)), random.integers(0, 3, 50)
    merged = calibrate((scores, gold), (scores, np.minimum(gold, 1)), MERGED.log_probabilities)
    assert merged.temperature == calibrate((scores, gold), (scores, gold)).temperature


def test_gold_labels_of_the_gate() -> None:
    assert MERGED.is_correct("not_entailment", "neutral") and MERGED.is_correct("neutral", "neutral")
    assert not MERGED.is_correct("neutral", "contradiction") and not MERGED.is_correct("not_entailment", "entailment")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, make_recipe: Callable[..., Recipe], tiny_model: Path) -> Run:
    """A run that held out a quarter of its 48 rows for calibration."""
    from toolkit.training.training_run import TrainingOptions, train_run

    folder = RunFolder(tmp_path_factory.mktemp("merged") / "small")
    train_run(make_recipe(f"model.name={tiny_model}", "data.calibration_share=0.25"), folder, TrainingOptions())
    return open_run(folder.path)


def rows_of(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "predictions.jsonl").read_text(encoding="utf-8").splitlines()]


def test_own_rows_are_measured_two_way(run: Run) -> None:
    """The files of the evaluation use the merged labels, and its probabilities are sums of the plain ones."""
    base = run.evaluate(model="base")
    plain = run.evaluate()
    merged = run.evaluate(overrides=TWO_WAY)
    assert merged.folder != plain.folder and merged.folder.name.startswith("adapter@nli-fr-dev-set")
    assert merged.labels == ["entailment", "not_entailment"] and plain.labels == list(LABELS)
    assert merged.metrics["merge_labels"] == {"not_entailment": ["neutral", "contradiction"]}
    assert merged.metrics["overrides"] == TWO_WAY and "merge_labels" not in plain.metrics
    assert merged.metrics["data"]["fingerprint"] == plain.metrics["data"]["fingerprint"]
    assert not merged.uses_run_recipe and not merged.is_plain and plain.is_plain
    for two_way, three_way in zip(rows_of(merged.folder), rows_of(plain.folder), strict=True):
        summed = three_way["probabilities"]["neutral"] + three_way["probabilities"]["contradiction"]
        assert two_way["probabilities"] == pytest.approx(
            {"entailment": three_way["probabilities"]["entailment"], "not_entailment": summed}
        )
        assert two_way["prediction"] == max(two_way["probabilities"], key=lambda label: two_way["probabilities"][label])
        assert two_way["label"] == ("entailment" if three_way["label"] == "entailment" else "not_entailment")
    calibrations = [evaluation.metrics["calibration"]["temperature"] for evaluation in (merged, plain)]
    assert calibrations[0] == calibrations[1]
    assert set(merged.metrics["per_label"]) == {"entailment", "not_entailment"} and merged.baselines["random"] == 0.5
    # The accuracy of the base model is that of three labels.
    assert plain.baselines["base_zero_shot"] == base.accuracy and "base_zero_shot" not in merged.baselines
    assert "not_entailment is neutral or contradiction; their probabilities are added" in merged.report()


def test_base_is_a_baseline_if_merged_alike(run: Run) -> None:
    base = run.evaluate(model="base", overrides=TWO_WAY)
    assert run.evaluate(overrides=TWO_WAY).baselines["base_zero_shot"] == base.accuracy


def test_different_mergers_have_different_folders(run: Run) -> None:
    other = {"evaluation.merge_labels": {"not_contradiction": ["entailment", "neutral"]}}
    names = {run.evaluate(overrides=overrides, limit=8).name for overrides in (TWO_WAY, other, {})}
    assert len(names) == 3


def test_two_way_rows_are_measured(run: Run, tmp_path: Path) -> None:
    """Rows with names of merged labels, in constrained and in free mode."""
    path = tmp_path / "two_way.jsonl"
    values = ["not_entailment", "entailment", "neutral", 1]
    rows = [{"premise": f"Il pleut {i}.", "hypothesis": "h", "label": value} for i, value in enumerate(values)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    overrides = {**TWO_WAY, "data.eval.label_map": {1: "not_entailment"}}
    for mode in ("constrained", "free"):
        evaluation = run.evaluate(data=str(path), overrides=overrides, mode=mode)
        gold = [row["label"] for row in rows_of(evaluation.folder)]
        assert gold == ["not_entailment", "entailment", "not_entailment", "not_entailment"]
        assert {row["prediction"] for row in rows_of(evaluation.folder)} <= {"entailment", "not_entailment", None}
    assert evaluation.metrics["invalid_by_label"].keys() == {"entailment", "not_entailment"}
