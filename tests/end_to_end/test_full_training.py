"""An encoder without an adapter, all of whose weights are trained, through the user's commands."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.conftest import ENCODER_RECIPE
from tests.end_to_end.test_main_job import read
from toolkit.runs.run_folder import RunFolder

Call = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def trained_full(tmp_path_factory: pytest.TempPathFactory, tiny_encoder: Path) -> RunFolder:
    """A run of a few steps, whose base model is gone afterwards. Tests must not change it."""
    from toolkit.recipe.loading import build_recipe
    from toolkit.training.training_run import TrainingOptions, train_run

    folder = tmp_path_factory.mktemp("full")
    base = Path(shutil.copytree(tiny_encoder, folder / "base"))
    values: dict[str, Any] = {**ENCODER_RECIPE, "lora": None}
    recipe = build_recipe(values, "recipe", {"model.name": str(base), "training.learning_rate": 1e-3})
    train_run(recipe, RunFolder(folder / "run"), TrainingOptions())
    shutil.rmtree(base)
    return RunFolder(folder / "run")


@pytest.fixture
def run(trained_full: RunFolder, tmp_path: Path) -> RunFolder:
    return RunFolder(Path(shutil.copytree(trained_full.path, tmp_path / "run")))


def test_every_verb_works_without_the_base(
    call: Call, run: RunFolder, trained_encoder: RunFolder, tmp_path: Path
) -> None:
    """The folder adapter/ has the complete model, so nothing else is read."""
    assert {path.name for path in run.adapter.iterdir()} >= {"config.json", "model.safetensors", "tokenizer.json"}
    assert call("eval_generate", run.path)[0] == 0
    metrics, rows = read(run, "adapter")
    assert metrics["n"] == len(rows) == 24
    (tmp_path / "in.jsonl").write_text(
        "".join(json.dumps({key: row[key] for key in ("premise", "hypothesis")}) + "\n" for row in rows),
        encoding="utf-8",
    )
    code, _, err = call("predict", run.path, "--input", tmp_path / "in.jsonl", "--output", tmp_path / "out.jsonl")
    assert code == 0, err
    predicted = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [row["prediction"] for row in predicted] == [row["prediction"] for row in rows]
    other = RunFolder(Path(shutil.copytree(trained_encoder.path, tmp_path / "lora")))
    assert call("eval_generate", other.path)[0] == 0
    code, out, err = call("compare", run.eval / "adapter", other.eval / "adapter")
    assert code == 0 and "24 rows of" in out, err
    code, _, err = call("eval_generate", run.path, "--model", "base")
    assert code == 2 and "--model 'base' is not available for encoder runs" in err
    assert "all weights trained" in run.report.read_text(encoding="utf-8")


def test_plain_transformers_gives_the_same_answers(call: Call, run: RunFolder) -> None:
    """The model card's code, and the names of the labels in config.json."""
    from transformers import pipeline

    assert call("eval_generate", run.path)[0] == 0
    _, rows = read(run, "adapter")
    classify = pipeline("text-classification", model=str(run.adapter), top_k=None)
    for row in rows[:4]:
        scores = classify({"text": row["premise"], "text_pair": row["hypothesis"]})
        probabilities = {score["label"]: score["score"] for score in scores}
        assert probabilities == pytest.approx(row["probabilities"], abs=1e-5)
    card = run.model_card.read_text(encoding="utf-8")
    assert "library_name: transformers" in card and "LoRA" not in card and "PeftModel" not in card
    code = card.split("```python\n")[1].split("```")[0].replace('folder = "."', f"folder = {str(run.adapter)!r}")
    exec(code, {})  # noqa: S102 - our own template


def test_changed_weights_are_refused(call: Call, run: RunFolder) -> None:
    from safetensors.torch import load_file, save_file

    weights = run.adapter / "model.safetensors"
    save_file({name: tensor + 1 for name, tensor in load_file(weights).items()}, weights, metadata={"format": "pt"})
    code, _, err = call("eval_generate", run.path)
    assert code == 3 and f"{weights} has changed since it was recorded" in err


def test_weights_of_another_model_are_refused(call: Call, run: RunFolder) -> None:
    """If changes are accepted, missing weights are still an error, because they would be random."""
    from safetensors.torch import load_file, save_file

    weights = run.adapter / "model.safetensors"
    tensors = load_file(weights)
    tensors.pop("classifier.dense.weight")
    save_file(tensors, weights, metadata={"format": "pt"})
    code, _, err = call("eval_generate", run.path, "--accept-changes")
    assert code == 2 and f"{run.adapter} lacks 1 of the model's weights (first: classifier.dense.weight)" in err


def test_lora_keys_are_refused_after_training(call: Call, run: RunFolder) -> None:
    for override, message in [
        ("lora.r=4", "lora.r: has no effect, because lora: null trains all weights"),
        ("lora={r: 4}", "lora.r has no effect on a run that is already trained"),
    ]:
        code, _, err = call("eval_generate", run.path, "--set", override)
        assert code == 2 and message in err and err.count("error: ") == 1, err


def test_all_weights_are_recorded_and_trained(trained_full: RunFolder) -> None:
    record = trained_full.record
    assert record["trainable_parameters"] == record["total_parameters"] and record["target_modules"] == []
    assert (
        set(record["seal"]["adapter"]) >= {"config.json", "model.safetensors"}
        and record["seal"]["recipe"]["lora"] is None
    )


def test_high_learning_rate_is_reported(call: Call, tmp_path: Path, tiny_encoder: Path) -> None:
    (tmp_path / "recipe.yaml").write_text(
        yaml.safe_dump(
            {**ENCODER_RECIPE, "model": {**ENCODER_RECIPE["model"], "name": str(tiny_encoder)}, "lora": None}
        ),
        encoding="utf-8",
    )
    code, out, err = call("preflight", tmp_path / "recipe.yaml")
    assert code == 0 and "training.learning_rate 0.01 is high for lora: null" in out, err
    code, out, err = call("preflight", tmp_path / "recipe.yaml", "--set", "training.learning_rate=5e-5")
    assert code == 0 and "is high for" not in out, err
