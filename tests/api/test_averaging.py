"""Averaged runs: predictions of the averaged weights, complete run folders, and refusals of runs that do not belong."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import toolkit
from toolkit.data.examples import load_examples
from toolkit.models import loading
from toolkit.recipe.schema import Recipe
from toolkit.runs.run_folder import RunFolder

MakeRecipe = Callable[..., Recipe]
Call = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def runs(
    trained: RunFolder, make_recipe: MakeRecipe, tiny_model: Path, tmp_path_factory: pytest.TempPathFactory
) -> list[Path]:
    """Two runs that differ in their seed. Tests must not change them."""
    folder = tmp_path_factory.mktemp("members")
    overrides = (f"model.name={tiny_model}", "training.learning_rate=0.02", "lora.dropout=0.0", "seed=7")
    other = toolkit.train(make_recipe(*overrides), output_dir=folder / "seed-7")
    return [trained.path, other.path]


@pytest.fixture(scope="module")
def average(runs: list[Path], tmp_path_factory: pytest.TempPathFactory) -> toolkit.Run:
    """Their average with an evaluation. Tests must not change it."""
    run = toolkit.average_runs(runs, tmp_path_factory.mktemp("average") / "run")
    run.evaluate()
    return run


def predict(run: toolkit.Run, model: str = "adapter") -> np.ndarray:
    """Return the probabilities of the labels for the evaluation rows."""
    with run.load(model) as classifier:
        return classifier.predict_proba([row.inputs for row in load_examples(run.recipe, run.recipe.data.eval)])


def test_probabilities_are_those_of_averaged_weights(
    average: toolkit.Run, runs: list[Path], tiny_model: Path, tmp_path: Path
) -> None:
    """The mean of the merged weights is computed here from two exports, which store it in bfloat16."""
    copies = [Path(shutil.copytree(run, tmp_path / run.name)) for run in runs]
    for copy in copies:
        toolkit.open_run(copy).export("f16", verify=8)
    merged = [load_file(copy / "merged" / "model.safetensors") for copy in copies]
    mean = {name: torch.stack([weights[name].float() for weights in merged]).mean(0) for name in merged[0]}
    own = Path(shutil.copytree(average.path, tmp_path / "own"))
    assert toolkit.open_run(own).export("f16", verify=8).passed
    averaged = load_file(own / "merged" / "model.safetensors")
    assert averaged.keys() == mean.keys()
    for name, tensor in averaged.items():
        torch.testing.assert_close(tensor.float(), mean[name], atol=1e-3, rtol=2**-7)
    assert all(any((weights[name].float() - mean[name]).abs().max() > 0.01 for name in mean) for weights in merged)
    probabilities = predict(average)
    np.testing.assert_allclose(probabilities, predict(toolkit.open_run(own), "merged"), atol=0.02)
    assert min(np.abs(probabilities - predict(toolkit.open_run(run))).max() for run in runs) > 0.02


def test_averaged_run_is_complete_and_names_its_members(average: toolkit.Run, runs: list[Path]) -> None:
    record = average.record
    assert record["status"] == "completed" and [run["seed"] for run in record["averaged"]] == [42, 7]
    assert record["averaged"][1]["name"] == "seed-7" and record["averaged"][0]["r"] == 4
    seconds = [json.loads((run / "run.json").read_text())["timings"]["train_seconds"] for run in runs]
    assert record["timings"]["train_seconds"] == pytest.approx(sum(seconds))
    assert average.recipe.lora.r == 8 and average.recipe.lora.alpha == 16
    page = average.report_path.read_text(encoding="utf-8")
    for text in (page, average.model_card_path.read_text(encoding="utf-8")):
        assert "the average of 2 adapters, trained with the seeds 42 and 7" in text and "Seed 42" not in text
    assert "(rank 4, alpha 8 each)" in average.model_card_path.read_text(encoding="utf-8")
    assert "--set seed=7 --set lora.r=4 --set lora.alpha=8" in page and "scripts/average_runs.py" in page
    assert toolkit.open_run(average.path).recipe == average.recipe


def test_script_averages_and_replaces_only_on_request(runs: list[Path], tmp_path: Path, call: Call) -> None:
    arguments = [*runs, "--output-dir", tmp_path / "run"]
    code, out, error = call("average_runs", *arguments)
    assert code == 0 and f"averaged    {tmp_path / 'run'}" in out, error
    code, _, error = call("average_runs", *arguments)
    assert code == 2 and "already exists" in error and "--overwrite" in error and "--resume" not in error
    assert call("average_runs", *arguments, "--overwrite")[0] == 0
    code, _, error = call("sft", tmp_path / "run" / "recipe.yaml", "--output-dir", tmp_path / "run", "--resume")
    assert code == 2 and "is the average of other runs" in error


def test_incompatible_runs_are_refused(
    average: toolkit.Run,
    runs: list[Path],
    make_recipe: MakeRecipe,
    tiny_model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    overrides = (f"model.name={tiny_model}", "training.learning_rate=0.02", "lora.dropout=0.0", "training.max_steps=1")
    cases: dict[str, list[Path]] = {"at least two runs": runs[:1], "have the same adapter": [runs[0], runs[0]]}
    cases["its adapter is an average or was imported"] = [runs[0], average.path]
    for message, changes in {
        "differ in training.max_steps": (),
        "uses DoRA": ("lora.use_dora=true",),
        "training rows of .* differ": ("seed=3", "data.dev_share=0.2", "training.eval_steps=null"),
    }.items():
        members = []
        for seed in ("seed=42", "seed=43") if "rows" in message else ("seed=42",):
            folder = tmp_path / str(len(list(tmp_path.iterdir())))
            members.append(toolkit.train(make_recipe(*overrides, *changes, seed), output_dir=folder).path)
        cases[message] = members if len(members) > 1 else [runs[0], *members]
    by_type = [tmp_path / "bfloat16", tmp_path / "float32"]
    for has_units, folder in zip((True, False), by_type, strict=True):
        monkeypatch.setattr(loading, "is_bfloat16_supported", lambda: True)
        monkeypatch.setattr(loading, "cpu_has_bfloat16_units", lambda has_units=has_units: has_units)
        toolkit.train(make_recipe(*overrides, "model.dtype=auto", f"seed={has_units:d}"), output_dir=folder)
    cases["The data types of .* differ"] = by_type
    for message, members in cases.items():
        with pytest.raises(toolkit.RunError, match=message) as error:
            toolkit.average_runs(members, tmp_path / "average")
        assert error.value.hint
    with pytest.raises(toolkit.RunError, match="one of the runs to average"):
        toolkit.average_runs(runs, runs[0], overwrite=True)
    with pytest.raises(toolkit.RunError, match="not a list of runs"):
        toolkit.average_runs(str(runs[0]), tmp_path / "average")  # type: ignore[arg-type]
    assert not (tmp_path / "average").exists()


def test_changed_members_are_refused_unless_accepted(runs: list[Path], tmp_path: Path, call: Call) -> None:
    changed = Path(shutil.copytree(runs[1], tmp_path / "changed"))
    config = changed / "adapter" / "adapter_config.json"
    config.write_text(config.read_text(encoding="utf-8") + "\n", encoding="utf-8")
    arguments = (runs[0], changed, "--output-dir", tmp_path / "average")
    code, _, error = call("average_runs", *arguments)
    assert code == 3 and "adapter_config.json" in error and "--accept-changes" in error
    assert not (tmp_path / "average").exists()
    assert call("average_runs", *arguments, "--accept-changes")[0] == 0
    record = json.loads((tmp_path / "average" / "run.json").read_text(encoding="utf-8"))
    assert len(record["accepted_changes"]) == 1 and record["accepted_changes"][0].startswith("changed: ")


def test_encoders_are_refused(trained_encoder: RunFolder, runs: list[Path], tmp_path: Path) -> None:
    with pytest.raises(toolkit.RunError, match="is an encoder, whose head starts from random weights"):
        toolkit.average_runs([runs[0], trained_encoder.path], tmp_path / "average")
