"""Tests of training: micro-batches accumulate, trees equal padded rows, runs resume, and records are complete."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.conftest import ROOT
from toolkit.errors import DataError, RunError
from toolkit.recipe.schema import Recipe
from toolkit.runs.run_folder import RunFolder
from toolkit.training.training_run import TrainingOptions, train_run

MakeRecipe = Callable[..., Recipe]


def run_training(recipe: Recipe, path: Path, *, resume: bool = False) -> dict[str, torch.Tensor]:
    run = RunFolder(path)
    train_run(recipe, run, TrainingOptions(resume=resume))
    return load_file(run.adapter / "adapter_model.safetensors")


def log(path: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (path / "train_log.jsonl").read_text(encoding="utf-8").splitlines()]


def assert_close(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor], tolerance: float) -> None:
    assert a.keys() == b.keys()
    for name, tensor in a.items():
        torch.testing.assert_close(b[name], tensor, rtol=0, atol=tolerance)


def test_weights_are_downloaded_after_all_checks(
    make_recipe: MakeRecipe,
    tiny_model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO", logger="toolkit")
    snapshot, fetched = tmp_path / "snapshots" / "abc123", list[tuple[str | None, str]]()

    def download(name: str, *, revision: str | None, allow_patterns: list[str]) -> str:
        shutil.copytree(tiny_model, snapshot, ignore=shutil.ignore_patterns("*.safetensors"), dirs_exist_ok=True)
        if "*.safetensors" in allow_patterns:
            fetched.append((revision, caplog.text))
            shutil.copytree(tiny_model, snapshot, dirs_exist_ok=True)
        return str(snapshot)

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    hub, run = "model.name=somebody/tiny", RunFolder(tmp_path / "run")
    with pytest.raises(DataError):
        train_run(make_recipe(hub, "model.max_seq_length=8"), run, TrainingOptions(dry_run=True))
    assert not fetched
    train_run(make_recipe(hub, "model.revision=main"), run, TrainingOptions(dry_run=True))
    ((revision, earlier_output),) = fetched
    assert revision == "abc123" and "verdict " in earlier_output


@pytest.mark.parametrize("loss_on", ["completion", "full_text"])
def test_accumulated_micro_batches_equal_one_batch(
    make_recipe: MakeRecipe, tiny_model: Path, tmp_path: Path, loss_on: str
) -> None:
    common = [f"model.name={tiny_model}", f"training.loss_on={loss_on}", "training.batching=padded"]
    one_batch = run_training(make_recipe(*common, "training.micro_batch_size=8"), tmp_path / "one")
    accumulated = run_training(make_recipe(*common, "training.micro_batch_size=2"), tmp_path / "accumulated")
    assert_close(one_batch, accumulated, 1e-4)
    assert [row["loss"] for row in log(tmp_path / "accumulated")] == pytest.approx(
        [row["loss"] for row in log(tmp_path / "one")], rel=1e-4
    )


def test_gradient_checkpointing_does_not_change_weights(
    make_recipe: MakeRecipe, tiny_model: Path, tmp_path: Path
) -> None:
    common = f"model.name={tiny_model}"
    plain = run_training(make_recipe(common), tmp_path / "plain")
    assert_close(plain, run_training(make_recipe(common, "training.gradient_checkpointing=true"), tmp_path / "c"), 1e-5)


@pytest.mark.parametrize("batching", ["padded", "prefix_tree"])
def test_logged_loss_covers_only_answer_tokens(
    make_recipe: MakeRecipe, tiny_model: Path, tmp_path: Path, batching: str
) -> None:
    """The first step's loss equals the mean loss of all answer tokens, computed from full logits."""
    from toolkit.models.backend import AutoModelForCausalLM
    from toolkit.planning.preflight import run_preflight

    recipe = make_recipe(
        f"model.name={tiny_model}", "training.batch_size=48", "training.max_steps=1", f"training.batching={batching}"
    )
    run_training(recipe, tmp_path / "run")
    model = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32).eval()
    losses = []
    for row in run_preflight(recipe).train_rows:
        with torch.inference_mode():
            log_probs = model(torch.tensor([[*row.prompt, *row.answer]])).logits[0].log_softmax(-1)
        losses += [-log_probs[len(row.prompt) - 1 + i, token].item() for i, token in enumerate(row.answer)]
    assert log(tmp_path / "run")[0]["loss"] == pytest.approx(sum(losses) / len(losses), rel=1e-4)


@pytest.mark.parametrize("grouped", ["true", "false"])
@pytest.mark.parametrize("loss_on", ["completion", "full_text"])
def test_trees_and_padding_give_the_same_weights(
    make_recipe: MakeRecipe, tiny_model: Path, tmp_path: Path, loss_on: str, grouped: str
) -> None:
    common = [f"model.name={tiny_model}", f"training.loss_on={loss_on}", "training.max_steps=20"]
    common += [f"training.group_by_premise={grouped}"]
    padded = run_training(make_recipe(*common, "training.batching=padded"), tmp_path / "padded")
    trees = ["training.batching=prefix_tree", "training.batch_tokens=90"]
    assert_close(padded, run_training(make_recipe(*common, *trees), tmp_path / "trees"), 1e-4)
    padded_log, tree_log = log(tmp_path / "padded"), log(tmp_path / "trees")
    assert [row["tokens"] for row in tree_log] == [row["tokens"] for row in padded_log]
    assert [row["loss"] for row in tree_log] == pytest.approx([row["loss"] for row in padded_log], rel=1e-4)


def test_auto_batching_picks_trees_for_shared_prefixes(
    make_recipe: MakeRecipe, tiny_model: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", logger="toolkit")
    run_training(make_recipe(f"model.name={tiny_model}", "training.group_by_premise=true"), tmp_path / "tree")
    batching = RunFolder(tmp_path / "tree").record["batching"]
    assert batching["name"] == "prefix_tree" and batching["token_ratio"] > 1.3
    assert batching["verification"]["gradient_difference"] < 1e-5
    assert f"a ratio of {batching['token_ratio']:.2f}" in caplog.text

    one_row_per_tree = ["training.batch_tokens=1", "training.micro_batch_size=1", "training.max_steps=1"]
    run_training(make_recipe(f"model.name={tiny_model}", *one_row_per_tree), tmp_path / "padded")
    record = RunFolder(tmp_path / "padded").record
    assert record["batching"]["name"] == "padded" and "not worth it" in record["batching"]["reason"]
    assert record["group_by_premise"] is False


def test_trees_handle_epochs_and_incomplete_batches(make_recipe: MakeRecipe, tiny_model: Path, tmp_path: Path) -> None:
    common = [f"model.name={tiny_model}", "data.train.limit=21", "training.max_steps=null", "training.epochs=2"]
    common += ["training.group_by_premise=true"]
    padded = run_training(make_recipe(*common, "training.batching=padded"), tmp_path / "padded")
    assert_close(padded, run_training(make_recipe(*common, "training.batching=prefix_tree"), tmp_path / "tree"), 1e-4)
    rows = log(tmp_path / "tree")
    assert len(rows) == 6 == RunFolder(tmp_path / "tree").record["steps"] and rows[-1]["epoch"] == 2
    assert rows[2]["tokens"] * 2 == rows[5]["tokens"], "an epoch missed a row"
    assert rows[0]["tokens"] != rows[3]["tokens"] - rows[2]["tokens"], "both epochs have the same order"


@pytest.mark.parametrize("batching", ["prefix_tree", "padded"])
def test_two_processes_train_the_same_weights(
    make_recipe: MakeRecipe, tiny_model: Path, tmp_path: Path, batching: str
) -> None:
    from toolkit.recipe.loading import dump_recipe

    micro_batches = "training.batch_tokens=60" if batching == "prefix_tree" else "training.micro_batch_size=2"
    recipe = make_recipe(
        f"model.name={tiny_model}", "training.group_by_premise=true", f"training.batching={batching}", micro_batches,
        "data.dev={path: 'embedded:nli-fr', split: test, limit: 12}", "training.eval_steps=1", "training.keep=best",
    )  # fmt: skip
    one_process = run_training(recipe, tmp_path / "one")
    file = tmp_path / "recipe.yaml"
    file.write_text(dump_recipe(recipe), encoding="utf-8")
    # accelerate starts processes that find each other only with --multi_gpu, even if there is no GPU.
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes=2"]
    launch += ["--num_machines=1", "--mixed_precision=no", "--dynamo_backend=no", "--num_cpu_threads_per_process=1"]
    launch += ["--main_process_port=0"]
    result = subprocess.run(
        [*launch, ROOT / "scripts" / "sft.py", file, "--output-dir", tmp_path / "two"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr[-3000:]
    assert result.stdout.count("processes: 2") == 1, "only the main process prints"
    assert_close(one_process, load_file(tmp_path / "two" / "adapter" / "adapter_model.safetensors"), 1e-4)
    for key in ("loss", "tokens", "grad_norm"):
        assert [row[key] for row in log(tmp_path / "two")] == pytest.approx(
            [row[key] for row in log(tmp_path / "one")], rel=1e-3
        )
    outcomes = [RunFolder(tmp_path / name).record["validation"] for name in ("one", "two")]
    assert outcomes[0]["best"] == pytest.approx(outcomes[1]["best"], rel=1e-3)
    assert outcomes[0]["best_step"] == outcomes[1]["best_step"]


def test_run_folder_has_all_promised_fields(trained: RunFolder) -> None:
    record = trained.record
    assert record["status"] == "completed"
    assert record["trainable_parameters"] > 0
    assert record["data"]["train"]["labels"] == {"entailment": 16, "neutral": 16, "contradiction": 16}
    assert record["tokens"]["trained_per_row"] >= 2
    for key in (
        "versions", "device", "precision", "batching", "data", "tokens", "trainable_parameters", "total_parameters",
        "timings", "peak_memory_bytes", "seed", "git_commit", "started", "ended", "final_loss",
    ):  # fmt: skip
        assert key in record, key
    assert record["precision"]["reason"] and record["batching"]["reason"]
    rows = log(trained.path)
    assert [row["step"] for row in rows] == [1, 2, 3]
    assert set(rows[0]) == {"step", "epoch", "loss", "learning_rate", "grad_norm", "tokens", "seconds"}
    assert (trained.adapter / "tokenizer.json").is_file()
    assert not list(trained.path.rglob("*.partial"))


@pytest.mark.parametrize("rows", [48, 16], ids=["in the first epoch", "in the second epoch"])
def test_resume_is_bit_exact(
    make_recipe: MakeRecipe, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rows: int
) -> None:
    steps = ["training.max_steps=5", "training.save_steps=2" if rows == 48 else "training.save_steps=3"]
    recipe = make_recipe(f"model.name={tiny_model}", f"data.train.limit={rows}", *steps)
    uninterrupted = run_training(recipe, tmp_path / "uninterrupted")

    from toolkit.training.callbacks import Progress

    advance = Progress.on_step_end

    def interrupt_after_four(self: Progress, args: object, state: object, control: object, **rest: object) -> None:
        advance(self, args, state, control, **rest)
        if state.global_step == 4:  # type: ignore[attr-defined]
            raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Progress, "on_step_end", interrupt_after_four)
        run_training(recipe, tmp_path / "resumed")
    assert RunFolder(tmp_path / "resumed").record["status"] == "interrupted"
    assert_close(uninterrupted, run_training(recipe, tmp_path / "resumed", resume=True), 0.0)
    assert [row["step"] for row in log(tmp_path / "resumed")] == [1, 2, 3, 4, 5]
    for key in ("loss", "tokens", "grad_norm"):
        assert [row[key] for row in log(tmp_path / "resumed")] == [row[key] for row in log(tmp_path / "uninterrupted")]


def test_chat_template_is_saved_with_the_adapter(make_recipe: MakeRecipe, tiny_model: Path, tmp_path: Path) -> None:
    template = "{% for m in messages %}{{ m.content }}{{ eos_token }}{% endfor %}"
    run_training(make_recipe(f"model.name={tiny_model}", f'task.chat_template="{template}"'), tmp_path / "run")
    assert (tmp_path / "run" / "adapter" / "chat_template.jinja").read_text(encoding="utf-8") == template


def test_4_bit_adapter_merges_into_16_bit(make_recipe: MakeRecipe, tiny_model: Path, tmp_path: Path) -> None:
    from toolkit.models.merging import merge_adapter

    recipe = make_recipe(f"model.name={tiny_model}", "model.load_in_4bit=true", "model.dtype=auto")
    adapter = run_training(recipe, tmp_path / "run")
    # B starts at zero, so a value above it is a trace of training.
    assert any(tensor.abs().max() > 0 for name, tensor in adapter.items() if "lora_B" in name)
    merge_adapter(tiny_model, tmp_path / "run" / "adapter", tmp_path / "merged")
    base, merged = (load_file(folder / "model.safetensors") for folder in (tiny_model, tmp_path / "merged"))
    changed = {name for name in base if not torch.equal(base[name], merged[name])}
    assert changed and all(name.endswith("_proj.weight") for name in changed)
    assert {tensor.dtype for tensor in merged.values()} == {torch.bfloat16}


def test_changed_recipe_is_refused(make_recipe: MakeRecipe, tiny_model: Path, trained: RunFolder) -> None:
    message = r"Cannot resume .*: the recipe has changed since the run started \(lora\.r, training\.learning_rate\)"
    with pytest.raises(RunError, match=message):
        train_run(make_recipe("lora.r=2", f"model.name={tiny_model}"), trained, TrainingOptions(resume=True))


def test_dry_run_writes_nothing(
    make_recipe: MakeRecipe, tiny_model: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", logger="toolkit")
    recipe = make_recipe(f"model.name={tiny_model}")
    train_run(recipe, RunFolder(tmp_path / "run"), TrainingOptions(dry_run=True))
    assert list(tmp_path.iterdir()) == []
    assert "parameters are trained" in caplog.text
    with_one_label = caplog.text.replace("entailment", "neutral").replace("contradiction", "neutral")
    assert "[neutral<|eot_id|>]" in with_one_label, "the trained part of the printed example is the label and its end"
