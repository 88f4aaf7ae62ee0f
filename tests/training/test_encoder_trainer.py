"""Tests of training an encoder: its head learns and is saved, micro-batches accumulate, and a run can be resumed."""

import json
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import torch
from safetensors.torch import load_file

from tests.training.test_training_run import assert_close, log, run_training
from toolkit.recipe.schema import Recipe
from toolkit.runs.run_folder import RunFolder

MakeRecipe = Callable[..., Recipe]


def without_dropout(folder: Path, copy: Path) -> Path:
    """Copy a model folder and set the dropout in its configuration to 0."""
    import shutil

    shutil.copytree(folder, copy)
    config = json.loads((copy / "config.json").read_text(encoding="utf-8"))
    config |= {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    (copy / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return copy


def test_loss_falls_and_head_is_saved(make_encoder_recipe: MakeRecipe, tiny_encoder: Path, tmp_path: Path) -> None:
    from toolkit.models.encoder import load_encoder
    from toolkit.models.loading import resolve_precision

    large_adapter = ["lora.r=16", "lora.alpha=32", "lora.target_modules=[query, key, value, dense]"]
    folder = without_dropout(tiny_encoder, tmp_path / "model")
    recipe = make_encoder_recipe(f"model.name={folder}", *large_adapter, "data.train.limit=12", "training.max_steps=60")
    saved = run_training(recipe, tmp_path / "run")
    losses = [row["loss"] for row in log(tmp_path / "run")]
    assert losses[0] == pytest.approx(1.0986, abs=0.3), "ln 3, the loss of a uniform guess"
    assert sum(losses[-5:]) / 5 < 0.6 * losses[0]
    fresh = load_encoder(folder, recipe, resolve_precision(recipe, folder)).classifier.state_dict()
    for name, tensor in fresh.items():
        trained = saved[f"base_model.model.classifier.{name}"]
        assert (trained - tensor).abs().max() > 1e-3, name
    assert any("lora_B" in name and tensor.abs().max() > 0 for name, tensor in saved.items())


def test_encoder_run_has_files_of_decoder_run(trained_encoder: RunFolder, trained: RunFolder) -> None:
    assert trained_encoder.record.keys() == trained.record.keys()
    assert trained_encoder.record["tokens"].keys() == trained.record["tokens"].keys()
    assert trained_encoder.record["tokens"]["trained_per_row"] == 1
    assert trained_encoder.record["batching"]["name"] == "padded"
    assert {path.name for path in trained_encoder.path.iterdir()} == {path.name for path in trained.path.iterdir()}
    encoder_log, decoder_log = log(trained_encoder.path), log(trained.path)
    assert [row["step"] for row in encoder_log] == [1, 2, 3] and encoder_log[0].keys() == decoder_log[0].keys()
    assert encoder_log[0]["tokens"] > 0
    for name in ("adapter_config.json", "adapter_model.safetensors", "tokenizer.json"):
        assert (trained_encoder.adapter / name).is_file()


def test_preflight_counted_the_trained_parameters(trained_encoder: RunFolder) -> None:
    saved = load_file(trained_encoder.adapter / "adapter_model.safetensors")
    # The adapter: 2 layers, query and value, 2 matrices of 32 x 4. The head: 32 x 32 + 32 and 32 x 3 + 3.
    assert sum(tensor.numel() for tensor in saved.values()) == 2 * 2 * 2 * 128 + 1056 + 99
    assert trained_encoder.record["trainable_parameters"] == 2 * 2 * 2 * 128 + 1056 + 99


def test_weighted_labels_equal_torch_cross_entropy(make_encoder_recipe: MakeRecipe, tiny_encoder: Path) -> None:
    from toolkit.planning.plan import plan_job
    from toolkit.planning.preflight import run_preflight
    from toolkit.training.training_backends import TRAINING_BACKENDS

    weights = {"entailment": 3.0, "neutral": 0.5}
    settings = ["training.class_weights={entailment: 3, neutral: 0.5}", "training.label_smoothing=0.2"]
    job = plan_job(run_preflight(make_encoder_recipe(f"model.name={tiny_encoder}", *settings)))
    assert job.label_targets is None and job.label_weights is not None
    model = TRAINING_BACKENDS["encoder"].load(job).eval()
    with TemporaryDirectory() as folder:
        trainer = TRAINING_BACKENDS["encoder"].make_trainer(job, model, Path(folder))
        step = trainer.data_collator([trainer.train_dataset[i] for i in range(8)])
    loss, expected, total = 0.0, 0.0, 0.0
    with torch.no_grad():
        for micro_batch in step["micro_batches"]:
            loss += trainer.summed_loss(model, dict(micro_batch)).item()
        for row, example in zip(job.preflight.train_rows[:8], job.preflight.splits.train, strict=False):
            logits = model(**{name: torch.tensor([ids]) for name, ids in row.inputs().items()}).logits
            weight = weights.get(example.label, 1.0)
            cross_entropy = torch.nn.functional.cross_entropy(logits, torch.tensor([row.label]), label_smoothing=0.2)
            expected, total = expected + weight * cross_entropy.item(), total + weight
    assert loss == pytest.approx(expected, rel=1e-5) and step["predictions"].item() == pytest.approx(total)


@pytest.mark.parametrize("checkpointing", ["false", "true"])
def test_accumulated_micro_batches_equal_one_batch(
    make_encoder_recipe: MakeRecipe, tiny_encoder: Path, tmp_path: Path, checkpointing: str
) -> None:
    common = [f"model.name={without_dropout(tiny_encoder, tmp_path / 'model')}"]
    one_batch = run_training(make_encoder_recipe(*common, "training.micro_batch_size=8"), tmp_path / "one")
    common += ["training.micro_batch_size=2", f"training.gradient_checkpointing={checkpointing}"]
    accumulated = run_training(make_encoder_recipe(*common), tmp_path / "accumulated")
    # Adam divides a gradient by its own size, so rounding in a gradient near zero can change a weight by a whole step.
    assert_close(one_batch, accumulated, 1e-4)
    for key in ("loss", "tokens", "grad_norm"):
        assert [row[key] for row in log(tmp_path / "accumulated")] == pytest.approx(
            [row[key] for row in log(tmp_path / "one")], rel=1e-4
        )


def test_logged_loss_is_label_cross_entropy(
    make_encoder_recipe: MakeRecipe, tiny_encoder: Path, tmp_path: Path
) -> None:
    """The first step's loss equals the mean loss of all rows, computed row by row."""
    from toolkit.models.encoder import load_encoder
    from toolkit.planning.preflight import run_preflight

    folder = without_dropout(tiny_encoder, tmp_path / "model")
    recipe = make_encoder_recipe(f"model.name={folder}", "training.batch_size=48", "training.max_steps=1")
    run_training(recipe, tmp_path / "run")
    preflight = run_preflight(recipe)
    model = load_encoder(folder, recipe, preflight.precision).eval()
    losses = []
    for row, example in zip(preflight.train_rows, preflight.splits.train, strict=True):
        with torch.inference_mode():
            log_probs = model(torch.tensor([row.ids])).logits[0].log_softmax(-1)
        losses.append(-log_probs[recipe.task.labels.index(example.label)].item())
    assert log(tmp_path / "run")[0]["loss"] == pytest.approx(sum(losses) / len(losses), rel=1e-4)
    assert log(tmp_path / "run")[0]["tokens"] == sum(len(row) for row in preflight.train_rows)


def test_resume_is_bit_exact(make_encoder_recipe: MakeRecipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = make_encoder_recipe("training.max_steps=5", "training.save_steps=2")
    uninterrupted = run_training(recipe, tmp_path / "uninterrupted")

    from toolkit.training.callbacks import Progress

    advance = Progress.on_step_end

    def interrupt_after_three(self: Progress, args: object, state: object, control: object, **rest: object) -> None:
        advance(self, args, state, control, **rest)
        if state.global_step == 3:  # type: ignore[attr-defined]
            raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Progress, "on_step_end", interrupt_after_three)
        run_training(recipe, tmp_path / "resumed")
    assert_close(uninterrupted, run_training(recipe, tmp_path / "resumed", resume=True), 0.0)
    assert [row["loss"] for row in log(tmp_path / "resumed")] == [
        row["loss"] for row in log(tmp_path / "uninterrupted")
    ]


def test_dry_run_shows_pairs_and_writes_nothing(
    make_encoder_recipe: MakeRecipe, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    from toolkit.training.training_run import TrainingOptions, train_run

    caplog.set_level("INFO", logger="toolkit")
    train_run(make_encoder_recipe(), RunFolder(tmp_path / "run"), TrainingOptions(dry_run=True))
    assert list(tmp_path.iterdir()) == []
    assert "</s></s>" in caplog.text
    assert any(f"</s> [{label}]" in caplog.text for label in make_encoder_recipe().task.labels)
