"""The public API: from a recipe to a GGUF file in Python, without printing, with results as objects."""

import json
import logging
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import toolkit
from tests.conftest import ROOT
from toolkit.api import imports
from toolkit.errors import DataError, GateError, ModelError, ParityError, RecipeError, RunError
from toolkit.recipe.schema import Recipe
from toolkit.runs.run_folder import RunFolder

PAIRS = [("Un chat dort.", "Un animal dort."), ("Aucun chien ne court.", "Un chien court.")]


@pytest.fixture(scope="module")
def run(trained: RunFolder, tmp_path_factory: pytest.TempPathFactory) -> toolkit.Run:
    """A copy of the trained run that these tests can write to."""
    path = tmp_path_factory.mktemp("api") / "small"
    shutil.copytree(trained.path, path)
    return toolkit.open_run(path)


def test_import_is_cheap() -> None:
    """`import toolkit` takes less than 0.3 s of CPU time beyond Python's start, and imports nothing heavy."""
    code = (
        "import sys, time; start = time.process_time(); import toolkit; "
        "print(time.process_time() - start, {'torch', 'numpy', 'pydantic', 'yaml'} & set(sys.modules))"
    )
    tries = [subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True) for _ in range(5)]
    seconds = min(float(done.stdout.split()[0]) for done in tries)
    assert seconds < 0.3 and tries[0].stdout.strip().endswith("set()")


def test_every_public_name_resolves() -> None:
    assert all(getattr(toolkit, name) is not None for name in toolkit.__all__)
    assert set(toolkit.__all__) <= set(dir(toolkit))
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        toolkit.nothing  # noqa: B018


def test_preflight_has_a_verdict(recipe_file: Path) -> None:
    report = toolkit.preflight(recipe_file, {"training.max_steps": 2})
    assert report.fits is True and report.verdict is not None and "training" in report.verdict
    assert report.tokens.rows == 48 and 0 < report.trainable_parameters < report.total_parameters
    assert "batch       prefix_tree" in report.report() and "fits on T4" in report.report()
    small = toolkit.preflight(recipe_file, memory=300_000_000)
    assert small.fits is False and str(small.verdict).startswith("does not fit on") and "300 MB" in str(small.verdict)


def test_preflight_times_steps_when_asked(recipe_file: Path) -> None:
    report = toolkit.preflight(recipe_file, probe=True)
    assert report.probe.step_seconds > 0 and "probe       " in report.report()
    assert toolkit.preflight(recipe_file, memory=300_000_000, probe=True).probe is None, (
        "a recipe that does not fit is not probed"
    )


def test_preflight_predicts_memory_of_an_encoder(make_encoder_recipe: Callable[..., Recipe]) -> None:
    report = toolkit.preflight(make_encoder_recipe())
    assert report.fits is True and "training" in str(report.verdict)
    assert "memory      training " in report.report() and "export" not in report.report()
    small = toolkit.preflight(make_encoder_recipe(), memory=300_000_000)
    assert small.fits is False and "no recipe setting helps" in str(small.verdict)


def test_train_returns_a_quiet_run(
    recipe_file: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Training prints nothing and does not record sys.argv, and the report shows the Python call instead."""
    monkeypatch.setattr(sys, "argv", ["secret.py", "--token", "abc"])
    run = toolkit.train(recipe_file, overrides={"training.max_steps": 2}, output_dir=tmp_path / "run")
    evaluation = run.evaluate(limit=6)
    assert capfd.readouterr() == ("", "")
    assert run.record["status"] == "completed" and run.record["command"] is None and run.record["steps"] == 2
    report = run.report_path.read_text(encoding="utf-8")
    assert "secret.py" not in run.path.joinpath("run.json").read_text(encoding="utf-8") + report
    assert "toolkit.train(" in report and "scripts/sft.py" not in report
    assert evaluation.n == 6 and evaluation.folder.parent == run.path / "eval"


def test_train_refuses_a_taken_folder(recipe_file: Path, run: toolkit.Run) -> None:
    with pytest.raises(RunError, match="already exists") as error:
        toolkit.train(recipe_file, output_dir=run.path)
    assert (
        error.value.hint
        == "Add resume=True to finish it, overwrite=True to replace it, or output_dir for another folder."
    )


def test_train_resumes_and_replaces(recipe_file: Path, tmp_path: Path) -> None:
    first = toolkit.train(recipe_file, {"training.max_steps": 1}, tmp_path / "run")
    resumed = toolkit.train(recipe_file, {"training.max_steps": 1}, tmp_path / "run", resume=True)
    assert resumed.record == first.record, "a finished run is not trained again"
    replaced = toolkit.train(recipe_file, {"training.max_steps": 2}, tmp_path / "run", overwrite=True)
    assert replaced.record["steps"] == 2 and replaced.recipe.training.max_steps == 2


def test_train_takes_a_recipe_object(make_recipe: Callable[..., Recipe], tiny_model: Path, tmp_path: Path) -> None:
    recipe = make_recipe(f"model.name={tiny_model}")
    with pytest.raises(RunError, match="no file name to derive the run folder from"):
        toolkit.train(recipe)
    run = toolkit.train(recipe, {"training.max_steps": 1}, tmp_path / "run")
    assert run.recipe.training.max_steps == 1 and recipe.training.max_steps == 3
    with pytest.raises(RecipeError, match="a path or a Recipe, not a dict"):
        toolkit.train({"task": {}})  # type: ignore[arg-type]


def test_evaluation_has_its_figures_as_attributes(run: toolkit.Run) -> None:
    evaluation = run.evaluate()
    metrics = json.loads((run.path / "eval" / "adapter" / "metrics.json").read_text(encoding="utf-8"))
    assert evaluation.accuracy == metrics["accuracy"] and evaluation.macro_f1 == metrics["macro"]["f1"]
    assert (evaluation.nll, evaluation.ece, evaluation.brier) == (metrics["nll"], metrics["ece"], metrics["brier"])
    assert evaluation.accuracy_interval[0] < evaluation.accuracy < evaluation.accuracy_interval[1]
    assert evaluation.macro_f1_interval[0] <= evaluation.macro_f1 <= evaluation.macro_f1_interval[1]
    assert evaluation.labels == ["entailment", "neutral", "contradiction"] and "majority" in evaluation.baselines
    text = evaluation.report()
    assert f"accuracy {evaluation.accuracy:.2%}" in text and "precision" in text and "phenomenon" in text
    assert run.model_card_path.is_file() and run.report_path.is_file()
    assert run.evaluations[0].name == "adapter"


def test_classifier_agrees_with_the_evaluation(run: toolkit.Run) -> None:
    """Tuples, dictionaries and a DataFrame give the labels and probabilities recorded in predictions.jsonl."""
    run.evaluate()
    lines = (run.path / "eval" / "adapter" / "predictions.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    with run.load() as classifier:
        frame = pd.DataFrame(rows)[["premise", "hypothesis"]]
        labels = classifier.predict([(row["premise"], row["hypothesis"]) for row in rows])
        assert labels == [row["prediction"] for row in rows]
        assert labels == classifier.predict(rows) == classifier.predict(frame)
        probabilities = classifier.predict_proba(frame)
        assert classifier.score(frame, [row["label"] for row in rows]) == run.evaluations[0].accuracy
    expected = [[row["probabilities"][label] for label in classifier.classes_] for row in rows]
    assert probabilities.dtype == np.float64 and probabilities.shape == (len(rows), 3)
    np.testing.assert_allclose(probabilities, expected, atol=1e-6)


def test_classifier_names_the_invalid_row(run: toolkit.Run) -> None:
    with run.load() as classifier:
        with pytest.raises(DataError, match="row 2: column 'hypothesis' must contain text, not ''"):
            classifier.predict([PAIRS[0], ("a", "")])
        with pytest.raises(DataError, match="Expected a list of rows, not a single str"):
            classifier.predict("Un chat dort.")
        assert classifier.predict([]) == [] and classifier.predict_proba([]).shape == (0, 3)


def test_overrides_apply_to_one_call_only(run: toolkit.Run) -> None:
    evaluation = run.evaluate(overrides={"evaluation.baselines": False}, limit=4)
    assert evaluation.baselines == {} and run.recipe.evaluation.baselines is True
    with pytest.raises(RecipeError, match="not a known key"):
        run.evaluate(overrides={"evaluation.xyz": 1})


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda run: run.evaluate(mode="fre"), "mode is 'fre'"),
        (lambda run: run.evaluate(limit=0), "limit is 0"),
        (lambda run: run.evaluate("base", shots=-1), "shots is -1"),
        (lambda run: run.evaluate(overrides="seed=1"), "overrides is 'seed=1'"),
        (lambda run: run.evaluate(limit=True), "limit is True"),
        (lambda run: run.evaluate(limit="12"), "limit is '12'"),
        (lambda run: run.evaluate(3), "model='3' is not adapter"),
        (lambda run: run.evaluate(overrides=5), "overrides is 5"),
        (lambda run: run.predict_file(None, "x.csv"), "source is None"),
        (lambda _: toolkit.open_run(5), "path is 5"),
        (lambda _: toolkit.train("recipes/quickstart.yaml", output_dir=3), "output_dir is 3"),
        (lambda _: toolkit.preflight("recipes/quickstart.yaml", memory="16GB"), "memory is '16GB'"),
        (lambda _: toolkit.preflight("recipes/quickstart.yaml", memory=-1), "memory is -1"),
        (lambda _: toolkit.compare([1, 2]), "an evaluation is 1"),
        (lambda _: toolkit.compare("eval/adapter"), "A single evaluation was given"),
        (lambda run: run.export("q3_k_m"), "'q3_k_m' is not a GGUF file type"),
        (lambda run: run.export(["f16"]), "is not a GGUF file type"),
        (lambda run: run.export(verify=0), "verify is 0"),
        (lambda run: run.export(min_agreement=0.0), "min_agreement is 0.0"),
        (lambda run: run.load("adaptor"), "is not adapter, base, merged or FILE.gguf"),
        (lambda run: run.load("nothing.gguf"), "There is no GGUF file nothing.gguf"),
    ],
)
def test_wrong_arguments_give_one_sentence(
    run: toolkit.Run, call: Callable[[toolkit.Run], object], message: str
) -> None:
    with pytest.raises(toolkit.ToolkitError, match=message):
        call(run)


def test_predict_file_keeps_all_columns(run: toolkit.Run, tmp_path: Path) -> None:
    frame = pd.DataFrame([{"premise": a, "hypothesis": b, "note": "x"} for a, b in PAIRS])
    frame.to_csv(tmp_path / "pairs.csv", index=False)
    assert run.predict_file(tmp_path / "pairs.csv", str(tmp_path / "labeled.csv")) == 0
    labeled = pd.read_csv(tmp_path / "labeled.csv")
    with run.load() as classifier:
        assert list(labeled["prediction"]) == classifier.predict(frame)
    assert list(labeled["note"]) == ["x", "x"]


def test_compare_takes_results_and_folders(run: toolkit.Run) -> None:
    comparison = toolkit.compare([run.evaluate(limit=9), run.evaluate("base", limit=9)])
    assert comparison.folder.parent == run.path / "compare" and comparison.record["rows"] == 9
    assert len(comparison.names) == 2 and comparison.agreement.shape == (2, 2)
    (pair,) = comparison.pairs
    low, high = pair.difference_ci95
    assert low <= pair.difference <= high and "McNemar" in comparison.report()
    folders = [run.path / "eval" / name.split("/")[-1] for name in comparison.names]
    assert toolkit.compare(folders, output=run.path / "elsewhere").pairs == comparison.pairs
    with pytest.raises(RunError, match="at least two"):
        toolkit.compare(folders[:1])


def test_export_returns_parity_or_raises(run: toolkit.Run, monkeypatch: pytest.MonkeyPatch) -> None:
    result = run.export("f16", verify=9)
    assert result.passed and [file.name for file in result.files] == ["small-f16.gguf"]
    assert result.agreement["gguf-f16"] == 1.0 and "gguf-f16" in result.table
    with run.load(result.files[0]) as gguf, run.load() as adapter:
        assert gguf.predict(PAIRS) == adapter.predict(PAIRS)
    monkeypatch.setattr("toolkit.models.decoder_folder.DecoderFolder._row_order", lambda *_: None)  # breaks every file
    with pytest.raises(ParityError, match="do not answer like the adapter") as error:
        run.export("f16", verify=24, min_agreement=1.0)
    assert isinstance(error.value, GateError) and error.value.exit_code == 3
    assert isinstance(error.value.result, toolkit.ExportResult) and not error.value.result.passed


def test_progress_goes_to_a_callback(run: toolkit.Run) -> None:
    calls: list[tuple[str, int, int | None]] = []
    run.evaluate(limit=5, progress=lambda *state: calls.append(state))
    assert ("scoring", 5, 5) in calls


def test_messages_are_logged(run: toolkit.Run, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="toolkit"):
        run.export("f16", verify=3)
    assert any(message.startswith("merging ") for message in caplog.messages)


def test_transformers_before_unsloth_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(imports, "_is_checked", False)
    monkeypatch.setitem(sys.modules, "transformers", sys)
    monkeypatch.delitem(sys.modules, "unsloth", raising=False)
    with pytest.raises(ModelError, match="transformers was imported before Unsloth") as error:
        imports.import_backend()
    assert "Restart Python" in str(error.value.hint)
