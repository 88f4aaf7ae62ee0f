"""An encoder run from recipe to evaluation through the user's commands, compared with a decoder run."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.conftest import ENCODER_RECIPE
from tests.end_to_end.test_main_job import read
from toolkit.inference.prediction import load_temperature
from toolkit.runs.model_ref import ModelRef
from toolkit.runs.run_folder import RunFolder
from toolkit.runs.trained_run import TrainedRun

Call = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def run(trained_encoder: RunFolder, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    copy = tmp_path_factory.mktemp("main") / "encoder"
    shutil.copytree(trained_encoder.path, copy)
    return RunFolder(copy)


@pytest.fixture
def decoder(trained: RunFolder, tmp_path: Path) -> RunFolder:
    copy = RunFolder(tmp_path / "decoder")
    shutil.copytree(trained.path, copy.path)
    return copy


@pytest.fixture
def recipe_file(tmp_path: Path, tiny_encoder: Path) -> Callable[..., Path]:
    """Write the encoder's recipe with changes such as `{"lora": {"r": 2}}` merged in."""

    def write(**changes: dict[str, Any]) -> Path:
        values = {name: {**section, **changes.get(name, {})} for name, section in ENCODER_RECIPE.items()}
        values["model"].setdefault("name", str(tiny_encoder))
        path = tmp_path / "recipe.yaml"
        path.write_text(yaml.safe_dump(values, allow_unicode=True), encoding="utf-8")
        return path

    return write


def test_encoder_evaluation_matches_decoder_format(call: Call, run: RunFolder, decoder: RunFolder) -> None:
    """An encoder's evaluation has the same files, fields and rows as a decoder's."""
    for folder in (run, decoder):
        code, out, err = call("eval_generate", folder.path)
        assert code == 0, err
        assert "macro avg" in out and "phenomenon" in out
    (metrics, rows), (decoder_metrics, decoder_rows) = read(run, "adapter"), read(decoder, "adapter")
    assert metrics.keys() == decoder_metrics.keys()
    assert metrics["data"] == decoder_metrics["data"], "the fingerprints of the rows differ"
    assert (metrics["n"], metrics["mode"], metrics["model"]) == (24, "constrained", "adapter")
    assert metrics["invalid"] == metrics["greedy_vs_likelihood_disagreements"] == 0
    shared_fields = ("id", "premise", "hypothesis", "label")
    assert [[row[key] for key in shared_fields] for row in rows] == [
        [row[key] for key in shared_fields] for row in decoder_rows
    ]
    for row in rows:
        assert row.keys() == decoder_rows[0].keys()
        assert row["prediction"] == max(row["probabilities"], key=row["probabilities"].get)
        assert sum(row["probabilities"].values()) == pytest.approx(1)


def test_encoder_is_compared_with_decoder(call: Call, run: RunFolder, decoder: RunFolder) -> None:
    for folder in (run, decoder):
        assert call("eval_generate", folder.path)[0] == 0
    code, out, err = call("compare", run.eval / "adapter", decoder.eval / "adapter")
    assert code == 0, err
    assert "24 rows of" in out and "encoder/adapter minus decoder/adapter" in out


def test_encoder_predictions_match_its_evaluation(call: Call, run: RunFolder, tmp_path: Path) -> None:
    assert call("eval_generate", run.path)[0] == 0
    _, rows = read(run, "adapter")
    source, target = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    texts = ({"premise": row["premise"], "hypothesis": row["hypothesis"]} for row in rows)
    source.write_text("".join(json.dumps(row) + "\n" for row in texts), encoding="utf-8")
    code, _, err = call("predict", run.path, "--input", source, "--output", target)
    assert code == 0, err
    predicted = [json.loads(line) for line in target.read_text(encoding="utf-8").splitlines()]
    for row, expected in zip(predicted, rows, strict=True):
        assert row["prediction"] == expected["prediction"]
        assert row["probabilities"] == pytest.approx(expected["probabilities"], abs=1e-5)


def test_encoder_probabilities_are_calibrated(call: Call, recipe_file: Callable[..., Path], tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "held")
    recipe = recipe_file(data={"calibration_share": 0.25}, training={"max_steps": 1})
    assert call("sft", recipe, "--output-dir", run.path)[0] == 0
    assert call("eval_generate", run.path)[0] == 0
    metrics = read(run, "adapter")[0]
    temperature = metrics["calibration"]["temperature"]
    assert sum(metrics["cross_fitted_calibration"]["rows"]) == metrics["n"]
    assert load_temperature(TrainedRun.open(run.path), ModelRef("adapter")) == temperature
    code, out, err = call("predict", run.path, "--calibrated", "--premise", "Il pleut.", "--hypothesis", "Il neige.")
    assert code == 0 and len(out.splitlines()) == 4, err


def test_truncated_premises_are_counted(call: Call, run: RunFolder) -> None:
    code, _, err = call("eval_generate", run.path, "--set", "model.max_seq_length=32", "--limit", "12")
    assert code == 0, err
    (folder,) = run.eval.glob("adapter@nli-fr-dev-set*-limit12")
    assert read(run, folder.name)[0]["shortened_rows"] > 0


def test_unsupported_encoder_commands_are_rejected(call: Call, run: RunFolder, tmp_path: Path) -> None:
    """Each is rejected with one error message, and the run stays unchanged."""
    before = sorted(run.path.iterdir())
    (tmp_path / "x.gguf").write_bytes(b"")
    for name, arguments, message in [
        (
            "eval_generate",
            ["--model", "base"],
            "--model 'base' is not available for encoder runs: their base model has",
        ),
        ("eval_generate", ["--model", "merged"], "--model 'merged' is not available for encoder runs"),
        ("eval_generate", ["--model", tmp_path / "x.gguf"], "is not available for encoder runs"),
        ("eval_generate", ["--set", "task.labels=[neutral, entailment, contradiction]"], "has the outputs"),
        ("eval_generate", ["--set", "task.system=Compare."], "task.system: has no effect with model.kind encoder"),
        ("export_gguf", [], "A GGUF export needs a model that generates text, but this run's model.kind is encoder."),
    ]:
        code, _, err = call(name, run.path, *arguments)
        assert code == 2 and message in err and err.count("error: ") == 1, (arguments, err)
        assert "Traceback" not in err
    assert sorted(run.path.iterdir()) == before


def test_preflight_stops_encoders_that_do_not_fit(call: Call, recipe_file: Callable[..., Path]) -> None:
    code, out, err = call("preflight", recipe_file(), "--memory", "16GB")
    assert code == 0 and "fits on a GPU with 16.0 GB: training " in out, err
    code, _, err = call("preflight", recipe_file(), "--memory", "300MB")
    assert code == 3 and "The recipe does not fit on a GPU with 300 MB: training " in err


def test_preflight_of_an_encoder_prints_counts(call: Call, recipe_file: Callable[..., Path]) -> None:
    """Tokens and parameters are counted without loading weights."""
    code, out, err = call("preflight", recipe_file())
    assert code == 0, err
    for word in (
        "2,179 of ",
        "1 target tokens per row",
        "16 entailment, 16 neutral, 16 contradiction",
        "0 pairs",
        "</s></s>",
    ):
        assert word in out


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": {"max_seq_length": 129}}, "model.max_seq_length is 129, but"),
        ({"model": {"max_seq_length": 8}}, "model.max_seq_length 8 is too short for the hypothesis in"),
        ({"lora": {"target_modules": ["query_proj"]}}, "'query_proj' is not a layer of CamembertModel. Its linear"),
        (
            {"model": {"name": "embedded:tiny-llama-fr"}},
            "embedded:tiny-llama-fr is a decoder (LlamaForCausalLM), but model.kind is encoder",
        ),
        ({"data": {"train": {"path": "embedded:nli-fr", "split": "dev", "limit": 30}}}, "occur in both data.train and"),
        ({"model": {"load_in_4bit": True}}, "model.load_in_4bit: has no effect with model.kind encoder"),
    ],
)
def test_bad_encoder_recipe_is_one_error(
    call: Call, recipe_file: Callable[..., Path], tmp_path: Path, changes: dict[str, dict[str, Any]], message: str
) -> None:
    path = recipe_file(**changes)
    code, _, err = call("sft", path, "--output-dir", tmp_path / "run")
    assert (code, err.count("error: ")) == (2, 1), err
    assert message in err and "Traceback" not in err
    assert [entry.name for entry in tmp_path.iterdir()] == ["recipe.yaml"]


def test_encoder_with_missing_weights_is_rejected(
    call: Call, recipe_file: Callable[..., Path], tiny_encoder: Path, tmp_path: Path
) -> None:
    from safetensors.torch import load_file, save_file

    folder = tmp_path / "model"
    shutil.copytree(tiny_encoder, folder)
    tensors = load_file(folder / "model.safetensors")
    tensors.pop("roberta.encoder.layer.1.attention.self.query.weight")
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    code, _, err = call("sft", recipe_file(model={"name": str(folder)}), "--output-dir", tmp_path / "run")
    assert code == 2 and "lacks 1 of the encoder's weights (first: roberta.encoder.layer.1.attention" in err, err
    assert not (tmp_path / "run").exists()


def test_adapter_config_names_its_task(run: RunFolder) -> None:
    config = json.loads((run.adapter / "adapter_config.json").read_text(encoding="utf-8"))
    assert config["task_type"] == "SEQ_CLS" and "classifier" in config["modules_to_save"]
