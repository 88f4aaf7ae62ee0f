"""Complete evaluations: only rows that were held out during training are used for calibration."""

import json
import shlex
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.special import softmax

from toolkit.data.examples import fingerprint
from toolkit.data.splits import load_splits
from toolkit.evaluation.calibration import label_indices
from toolkit.evaluation.cross_fitting import assign_halves, cross_fit
from toolkit.inference.prediction import load_temperature
from toolkit.recipe.loading import load_recipe
from toolkit.recipe.schema import Recipe
from toolkit.reporting.report_data import gather_report
from toolkit.runs.model_ref import ModelRef
from toolkit.runs.run_folder import RunFolder
from toolkit.runs.trained_run import TrainedRun
from toolkit.utils.atomic_io import write_json

Call = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, make_recipe: Callable[..., Recipe], tiny_model: Path) -> RunFolder:
    """A run that held out a quarter of its 48 rows for calibration."""
    from toolkit.training.training_run import TrainingOptions, train_run

    run = RunFolder(tmp_path_factory.mktemp("calibrated") / "small")
    recipe = make_recipe(f"model.name={tiny_model}", "data.calibration_share=0.25")
    train_run(recipe, run, TrainingOptions())
    return run


def metrics_of(run: RunFolder, name: str) -> dict[str, Any]:
    return json.loads((run.eval / name / "metrics.json").read_text(encoding="utf-8"))


def test_held_out_rows_are_not_trained_on(run: RunFolder) -> None:
    data, tokens = run.record["data"], run.record["tokens"]
    assert (data["train"]["rows"], data["calibration"]["rows"]) == (36, 12)
    assert tokens["rows"] == 36


def test_temperature_is_fitted_on_held_out_rows(call: Call, run: RunFolder) -> None:
    """The temperature is fitted on the held-out rows, and its effect is measured on the evaluation rows."""
    for model in ("base", "adapter"):
        code, out, err = call("eval_generate", run.path, "--model", model)
        assert code == 0, err
        assert "fitted on 12 held-out training rows" in out
    metrics = metrics_of(run, "adapter")
    calibration = metrics["calibration"]
    assert (
        calibration["rows"] == 12
        and calibration["temperature"] == load_temperature(TrainedRun.open(run.path), ModelRef("adapter")) != 1.0
    )
    assert calibration["before"] == {key: metrics[key] for key in ("nll", "ece", "brier")}
    assert calibration["after"] != calibration["before"]
    assert (run.eval / "adapter" / "reliability.png").read_bytes().startswith(b"\x89PNG")
    assert load_temperature(TrainedRun.open(run.path), ModelRef("base")) != calibration["temperature"]
    assert metrics["baselines"]["base_zero_shot"] == metrics_of(run, "base")["accuracy"]
    assert "base_zero_shot" not in metrics_of(run, "base")["baselines"]
    assert metrics["premise_groups"] == 8 and metrics["warnings"] == []


def test_cross_fitting_matches_saved_probabilities(call: Call, run: RunFolder) -> None:
    """The calibrated scores follow from predictions.jsonl alone: only ratios of likelihoods matter."""
    assert call("eval_generate", run.path)[0] == 0
    metrics = metrics_of(run, "adapter")
    lines = (run.eval / "adapter" / "predictions.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    scores = np.log([list(row["probabilities"].values()) for row in rows])
    gold = label_indices([row["label"] for row in rows], metrics["labels"])
    result = cross_fit(scores, gold, assign_halves([row["premise"] for row in rows], seed=run.record["seed"]))
    saved = metrics["cross_fitted_calibration"]
    assert saved["rows"] == list(result.rows) == [12, 12]
    for key in ("nll", "ece", "brier"):
        assert saved[key] == pytest.approx(result.record()[key], abs=1e-6)


@pytest.mark.parametrize("override", ["seed=1", "data.calibration_share=0.5", "data.train.limit=45"])
def test_other_held_out_rows_are_not_used(call: Call, run: RunFolder, override: str) -> None:
    """No temperature is fitted if an override selects other rows than those that the run held out."""
    before = {path.name for path in run.eval.glob("*")}
    code, out, err = call("eval_generate", run.path, "--set", override)
    assert code == 0, err
    assert "WARNING: No temperature was fitted" in out
    folder = next(path for path in run.eval.glob("adapter@nli-fr-dev-set*") if path.name not in before)
    metrics = metrics_of(run, folder.name)
    assert metrics["calibration"] is None and "may have been trained on" in metrics["warnings"][0]


def test_limited_evaluations_fit_no_temperature(call: Call, run: RunFolder) -> None:
    """A lack of rows for cross-fitting is only printed, because it would be out of place in the run's report."""
    code, out, err = call("eval_generate", run.path, "--limit", "3")
    assert code == 0 and "WARNING: Calibrated scores (cross-fitted) need at least two groups of rows" in out + err
    metrics = metrics_of(run, "adapter@nli-fr-dev-limit3")
    assert metrics["calibration"] is metrics["cross_fitted_calibration"] is None and metrics["warnings"] == []


def test_calibration_needs_no_baselines(call: Call, run: RunFolder) -> None:
    overrides = ["--set", "evaluation.baselines=false", "--data", "embedded:nli-fr:test"]
    assert call("eval_generate", run.path, *overrides)[0] == 0
    metrics = metrics_of(run, "adapter@nli-fr-test")
    assert metrics["baselines"] == {} and metrics["calibration"]["rows"] == 12


def test_dev_rows_serve_as_calibration_set(
    call: Call, run: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without data.calibration_share, the temperature is fitted on the dev rows, also without baselines."""
    copy = RunFolder(tmp_path / "with-dev")
    shutil.copytree(run.path, copy.path, ignore=shutil.ignore_patterns("eval"))
    splits = load_splits(load_recipe(run.recipe_file))
    splits = replace(splits, calibration_set=[], dev=splits.calibration_set)
    data = run.record["data"]
    dev = data["calibration"] | {"fingerprint": fingerprint(splits.dev)}
    write_json(copy.run_json, {**run.record, "data": {**data, "dev": dev}})
    monkeypatch.setattr("toolkit.evaluation.evaluator.load_splits", lambda *_, **__: splits)
    recipe = run.recipe_file.read_text(encoding="utf-8").replace(" dev_share: 0.0", " dev_share: 0.25")
    copy.recipe_file.write_text(recipe.replace("calibration_share: 0.25", "calibration_share: 0.0"), encoding="utf-8")
    code, out, err = call("eval_generate", copy.path, "--accept-changes", "--set", "evaluation.baselines=false")
    assert code == 0, err
    assert "fitted on 12 dev rows" in out
    calibration = metrics_of(copy, "adapter")["calibration"]
    assert (calibration["source"], calibration["rows"]) == ("dev", 12)
    assert metrics_of(run, "adapter")["calibration"] == calibration | {"source": "calibration_share"}


def test_held_out_premises_occur_nowhere_else(run: RunFolder) -> None:
    splits = load_splits(load_recipe(run.recipe_file))
    premises = {row.group for row in splits.calibration_set}
    assert premises and not premises & {row.group for row in splits.train}


def test_evaluations_of_a_run_are_compared(call: Call, run: RunFolder) -> None:
    code, out, err = call("compare", run.eval / "adapter", run.eval / "base")
    assert code == 0, err
    assert str(run.path / "compare" / "adapter--base") in out and "small/adapter minus small/base" in out
    assert (
        metrics_of(run, "adapter")["accuracy"]
        == json.loads((run.path / "compare" / "adapter--base" / "compare.json").read_text(encoding="utf-8"))[
            "evaluations"
        ][0]["accuracy"]
    )


def test_predict_uses_the_gguf_temperature(call: Call, run: RunFolder) -> None:
    """A GGUF file has its own temperature, which prediction requires and applies."""
    assert call("export_gguf", run.path, "--quant", "f16")[0] == 0
    gguf = run.gguf("f16")
    pair = ["--premise", "Il pleut.", "--hypothesis", "Il neige."]
    code, _, err = call("predict", run.path, "--model", gguf, "--calibrated", *pair)
    assert code == 2 and "eval_generate.py" in err
    assert call("eval_generate", run.path, "--model", gguf)[0] == 0
    metrics = metrics_of(run, "gguf-f16")
    assert metrics["cross_fitted_calibration"]["nll"] == pytest.approx(
        metrics_of(run, "adapter")["cross_fitted_calibration"]["nll"], abs=0.01
    )
    temperature = metrics["calibration"]["temperature"]
    plain, calibrated = (
        [
            float(line.split()[1].rstrip("%"))
            for line in call("predict", run.path, "--model", gguf, *flags, *pair)[1].splitlines()[1:]
        ]
        for flags in ([], ["--calibrated"])
    )
    assert len(plain) == 3 and temperature != 1.0
    softened = softmax(np.log(np.array(plain)) / temperature)
    np.testing.assert_allclose(np.array(calibrated) / sum(calibrated), softened, atol=0.02)


def test_free_and_constrained_answers_are_compared(call: Call, run: RunFolder) -> None:
    assert call("eval_generate", run.path, "--mode", "free")[0] == 0
    code, out, err = call("compare", run.eval / "adapter", run.eval / "adapter@nli-fr-dev-free")
    assert code == 0, err
    assert "small/adapter minus small/adapter@nli-fr-dev-free" in out
    folder = run.path / "compare" / "adapter--adapter@nli-fr-dev-free"
    record = json.loads((folder / "compare.json").read_text(encoding="utf-8"))
    assert [evaluation["mode"] for evaluation in record["evaluations"]] == ["constrained", "free"]
    differing = [json.loads(line) for line in (folder / "differences.jsonl").read_text(encoding="utf-8").splitlines()]
    assert len(differing) >= metrics_of(run, "adapter@nli-fr-dev-free")["invalid"]


def test_report_command_repeats_an_evaluation(call: Call, run: RunFolder, tmp_path: Path) -> None:
    """Rows with other columns and labels are evaluated, and the command in the report gives the same metrics."""
    path = tmp_path / "autres.tsv"
    rows = [(f"Le chat {i} dort.", f"Le chien {i} dort.", i % 3) for i in range(9)]
    lines = ["-e prémisse\thypo\tclasse", *("\t".join(map(str, row)) for row in rows)]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    columns = "data.columns={premise: -e prémisse, hypothesis: hypo, label: classe}"
    labels = "data.label_map={0: entailment, 1: neutral, 2: contradiction}"
    code, _, err = call("eval_generate", run.path, "--data", path, "--set", columns, "--set", labels)
    assert code == 0, err
    (folder,) = run.eval.glob("adapter@*autres-set*")
    first = metrics_of(run, folder.name)
    assert first["n"] == 9 and first["baselines"]["majority"] == pytest.approx(1 / 3)
    assert first["calibration"], "the held-out rows are read with the run's own column names"

    command = next(line for line in gather_report(TrainedRun.open(run.path)).commands if str(path) in line)
    copy = RunFolder(run.path.with_name("small-again"))
    shutil.copytree(run.path, copy.path, ignore=shutil.ignore_patterns("eval"))
    words = shlex.split(command)
    assert words[2] == str(copy.path)
    code, _, err = call("eval_generate", *words[2:])
    assert code == 0, err
    again = metrics_of(copy, folder.name)
    differing = ("speed", "seal")  # the seal has a digest of all other fields
    assert {key: value for key, value in again.items() if key not in differing} == {
        key: value for key, value in first.items() if key not in differing
    }
