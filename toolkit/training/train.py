"""Supervised fine-tuning: a recipe in, an adapter and the record of how it came about out."""

import resource
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from toolkit.errors import DeviceMemoryError, RunError, TrainingError
from toolkit.kinds import Kind
from toolkit.model.attention import accept_trees
from toolkit.model.backend import DEVICE, wait_for_all_processes
from toolkit.model.loading import attach_lora, load_base
from toolkit.preflight import Preflight, run_preflight
from toolkit.recipe import Recipe
from toolkit.recipe_file import differences, dump_recipe, load_recipe
from toolkit.run_folder import IS_MAIN_PROCESS, RunFolder, atomic_path, now, write_text
from toolkit.training.callbacks import TrainLog
from toolkit.training.encoder import load_for_training, make_encoder_trainer, plan_encoder
from toolkit.training.plan import Plan, first_batches, make_plan
from toolkit.training.trainer import make_trainer
from toolkit.training.verification import verify_tree
from toolkit.versions import git_commit, package_versions


@dataclass(frozen=True)
class _Way:
    """What differs between the kinds of model; all else of a run is the same."""

    plan: Callable[[Preflight], Plan]
    load: Callable[[Preflight, Plan], Any]
    make_trainer: Callable[[Preflight, Plan, Any, Path], Any]


def _load_decoder(before: Preflight, plan: Plan) -> Any:
    recipe, checkpointing = before.recipe, plan.gradient_checkpointing
    model = load_base(before.folder, recipe, before.precision, gradient_checkpointing=checkpointing)
    return attach_lora(model, recipe.lora, seed=recipe.seed, gradient_checkpointing=checkpointing)


_WAYS: dict[Kind, _Way] = {
    "decoder": _Way(make_plan, _load_decoder, make_trainer),
    "encoder": _Way(plan_encoder, load_for_training, make_encoder_trainer),
}


def train(recipe: Recipe, run: RunFolder, *, resume: bool, overwrite: bool, dry_run: bool) -> None:
    """Train the recipe's adapter into a run folder.

    Args:
        recipe: what to do.
        run: where the results go; nothing is written there before data, model and recipe have been checked.
        resume: go on from the newest checkpoint.
        overwrite: replace an older run.
        dry_run: do everything but the steps, and write nothing.

    Raises:
        ToolkitError: the recipe cannot work, the run cannot be resumed, or the loss is no number.
    """
    if resume:
        _refuse_other_recipe(recipe, run)
        if run.record.get("status") == "completed":
            _say(f"{run.path} is finished; there is nothing to resume.")
            return
    before = run_preflight(recipe, weights=True)
    _say(f"{before.report()}\n\n{before.example(colour=sys.stdout.isatty())}\n")
    way = _WAYS[recipe.model.kind]
    plan = way.plan(before)
    _say(f"batch       {plan}")
    started = time.monotonic()
    model = way.load(before, plan)
    _check_trainable(model, before)
    plan = _verify(plan, before, model)
    if dry_run:
        with TemporaryDirectory() as folder:  # a trainer makes its output folder at once
            way.make_trainer(before, plan, model, Path(folder))
        _say("Dry run: data, model and trainer are ready; no step was made and nothing was written.")
        return
    checkpoint = _newest_checkpoint(run) if resume else None
    _begin(run, before, plan, overwrite=overwrite, resume=resume)
    if plan.processes > 1:  # a trainer makes its output folder at once, which the main process may be emptying
        wait_for_all_processes()
    loaded = time.monotonic()
    try:
        final_loss = _fit(model, before, plan, run, checkpoint)
    except BaseException as error:
        _finish(run, status="interrupted" if isinstance(error, KeyboardInterrupt) else "failed")
        if isinstance(error, torch.OutOfMemoryError):
            raise DeviceMemoryError(
                "The device's memory does not hold a training step.",
                hint="Lower training.batch_tokens (training.micro_batch_size where rows are padded), "
                "or set model.load_in_4bit: true.",
            ) from error
        raise
    _finish(
        run,
        status="completed",
        final_loss=final_loss,
        timings={"load_seconds": round(loaded - started, 2), "train_seconds": round(time.monotonic() - loaded, 2)},
        peak_memory_bytes=peak_memory_bytes(),
    )
    _say(f"adapter     {run.adapter}")


def _fit(model: Any, before: Preflight, plan: Plan, run: RunFolder, checkpoint: Path | None) -> float | None:
    """Make all steps behind `checkpoint`, save the adapter, and return the mean loss."""
    trainer = _WAYS[before.recipe.model.kind].make_trainer(before, plan, model, run.checkpoints)
    if IS_MAIN_PROCESS:
        log = TrainLog(run.train_log, int(checkpoint.name.rpartition("-")[2]) if checkpoint else 0)
        trainer.callback_handler.callbacks.insert(0, log)  # before a callback that may stop the run
    trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    if IS_MAIN_PROCESS:
        save_adapter(model, before, run)
    return trainer.state.log_history[-1].get("train_loss")


def _say(text: str) -> None:
    if IS_MAIN_PROCESS:
        print(text)


def _finish(run: RunFolder, **fields: Any) -> None:
    if IS_MAIN_PROCESS:
        run.update(ended=now(), **fields)


def _refuse_other_recipe(recipe: Recipe, run: RunFolder) -> None:
    if not run.recipe.is_file():
        raise RunError(f"{run.path} holds no run that could be resumed.", hint="Leave out --resume.")
    if (saved := load_recipe(run.recipe)) != recipe:
        raise RunError(
            f"The recipe differs from that of {run.path} in {', '.join(differences(saved, recipe))}, "
            "so the run cannot be resumed.",
            hint="Resume with the same recipe and overrides, or start anew with --overwrite or --output-dir.",
        )


def _check_trainable(model: Any, before: Preflight) -> None:
    trainable = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    if trainable != before.parameters.trainable:
        raise TrainingError(
            f"{trainable:,} parameters would be trained, but the recipe's adapter has {before.parameters.trainable:,}."
        )


def _newest_checkpoint(run: RunFolder) -> Path | None:
    checkpoints = [path for path in run.checkpoints.glob("checkpoint-*") if (path / "trainer_state.json").is_file()]
    return max(checkpoints, key=lambda path: int(path.name.rpartition("-")[2]), default=None)


def _verify(plan: Plan, before: Preflight, model: Any) -> Plan:
    """The plan, with padded rows where a tree does not give what they give.

    Raises:
        TrainingError: it does not, and the recipe allows nothing but trees.
    """
    if not plan.is_tree:
        return plan
    accept_trees(model)
    rows = first_batches(before, plan, 1)[0]
    found = verify_tree(model, rows, before.recipe.training.loss_on, before.precision)
    if found.passed:
        _say(f"verified    {found}")
        return plan.verified(found, before.recipe.training)
    accept_trees(model, False)
    if before.recipe.training.batching == "prefix_tree":
        raise TrainingError(
            f"On this model and device {found}: tree batches cannot be trained on.",
            hint="Set training.batching: padded, and please report this with the versions in run.json.",
        )
    _say(f"WARNING     {found}. Training goes on with padded rows, which are slower.")
    return plan.verified(found, before.recipe.training)


def _begin(run: RunFolder, before: Preflight, plan: Plan, *, overwrite: bool, resume: bool) -> None:
    if not IS_MAIN_PROCESS:
        return
    record = {
        "versions": package_versions(),
        "git_commit": git_commit(),
        "command": sys.argv,
        "seed": before.recipe.seed,
        **before.record(),
        **asdict(plan),
    }
    if resume:
        run.update(status="running", resumed=now(), **record)
    else:
        run.begin(record, replace=overwrite)
        write_text(run.recipe, dump_recipe(before.recipe))


def save_adapter(model: Any, before: Preflight, run: RunFolder) -> None:
    """Write the adapter and the tokenizer, with the recipe's chat template, as the run's result."""
    model.peft_config["default"].base_model_name_or_path = before.recipe.model.name
    with atomic_path(run.adapter) as partial:
        # Left to itself, PEFT asks the hub whether the vocabulary has grown.
        model.save_pretrained(str(partial), save_embedding_layers=False)
        (partial / "README.md").unlink(missing_ok=True)  # PEFT's empty form
        before.encoder.tokenizer.save_pretrained(str(partial))


def peak_memory_bytes() -> int:
    """The most memory this process has held: on the GPU where there is one, else resident."""
    if DEVICE == "cuda":
        return torch.cuda.max_memory_allocated()
    scale = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * scale
