"""Supervised fine-tuning: a recipe in, an adapter and the record of how it came about out."""

import sys
import time
from contextlib import nullcontext, suppress
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from toolkit.disk import held
from toolkit.errors import StorageError, TrainingError
from toolkit.model.attention import accept_trees
from toolkit.model.backend import wait_for_all_processes
from toolkit.model.files import fetch_weights, model_fingerprint
from toolkit.model.precision import Precision
from toolkit.out_of_memory import step_errors
from toolkit.preflight import Preflight, run_preflight, use_colour
from toolkit.recipe import Recipe
from toolkit.recipe_file import dump_recipe
from toolkit.run_folder import IS_MAIN_PROCESS, RunFolder, now
from toolkit.training.checkpoints import Checkpoints, find_checkpoints
from toolkit.training.fit import fit, say
from toolkit.training.outlook import disk_warning, look_ahead, outlook_lines, peak_memory_bytes, verdict
from toolkit.training.plan import Plan, first_batches
from toolkit.training.resuming import refuse_other_data, refuse_other_plan, refuse_other_run
from toolkit.training.signals import resume_command
from toolkit.training.verification import verify_tree
from toolkit.training.ways import WAYS
from toolkit.versions import git_commit, package_versions


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
        refuse_other_run(recipe, run)
        if run.is_finished:
            say(f"{run.path} is finished; there is nothing to resume.")
            return
    before = run_preflight(recipe, recorded=Precision.of_record(run.record) if resume else None)
    say(f"{before.report()}\n\n{before.examples(colour=use_colour())}\n")
    way = WAYS[recipe.model.kind]
    plan = way.plan(before)
    record = before.record()
    record["model"]["fingerprint"] = model_fingerprint(before.folder)
    if resume:
        refuse_other_data(run, record)
        plan = plan.as_begun(run.record)
        refuse_other_plan(run, asdict(plan))
    say(f"batch       {plan}")
    outlook = look_ahead(before, plan) if recipe.model.kind == "decoder" else None
    if outlook:
        say(outlook_lines(outlook, verdict(before, outlook)))
        if not resume and (warning := disk_warning(outlook, run.path)):  # a resumed run's checkpoints are there already
            say(warning)
    fetch_weights(recipe.model.name, before.folder)
    started = time.monotonic()
    model = way.load(before, plan)
    _check_trainable(model, before)
    plan = _verify(plan, before, model)
    if resume:
        refuse_other_plan(run, asdict(plan))
    if dry_run:
        with TemporaryDirectory() as folder:  # a trainer makes its output folder at once
            way.make_trainer(before, plan, model, Path(folder))
        say("Dry run: data, model and trainer are ready; no step was made and nothing was written.")
        return
    with held(run.path) if IS_MAIN_PROCESS else nullcontext():
        found = find_checkpoints(run.checkpoints) if resume else Checkpoints(None)
        if not resume:
            run.refuse_if_taken(overwrite=overwrite)  # once more: another process may have begun meanwhile
        record |= {**asdict(plan), "outlook": outlook.record() if outlook else None}
        _begin(run, before.recipe, record, overwrite=overwrite, resume=resume)
        if plan.processes > 1:  # a trainer makes its output folder at once, which the main process may be emptying
            wait_for_all_processes()
        _fit_and_record(model, before, plan, run, found, load_seconds=time.monotonic() - started)


def _fit_and_record(
    model: Any, before: Preflight, plan: Plan, run: RunFolder, found: Checkpoints, *, load_seconds: float
) -> None:
    try:
        with step_errors():
            trainer = WAYS[before.recipe.model.kind].make_trainer(before, plan, model, run.checkpoints)
            results = fit(trainer, before, plan, run, found)
    except BaseException as error:
        with suppress(OSError):  # what ended the run is the news, not that there is no room to note it
            _finish(run, status="interrupted" if isinstance(error, KeyboardInterrupt) else "failed")
        if isinstance(error, StorageError):
            error.hint = f"Make room (`df -h` tells how much there is), then go on with: {resume_command()}"
        raise
    timings = {"load_seconds": round(load_seconds, 2), "train_seconds": round(results.seconds, 2)}
    _finish(run, status="completed", final_loss=results.loss, timings=timings, peak_memory_bytes=peak_memory_bytes())
    say(f"adapter     {run.adapter}")


def _finish(run: RunFolder, **fields: Any) -> None:
    if IS_MAIN_PROCESS:
        run.update(ended=now(), **fields)


def _check_trainable(model: Any, before: Preflight) -> None:
    trainable = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    if trainable != before.parameters.trainable:
        raise TrainingError(
            f"{trainable:,} parameters would be trained, but the recipe's adapter has {before.parameters.trainable:,}."
        )


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
        say(f"verified    {found}")
        return plan.verified(found, before.recipe.training)
    accept_trees(model, False)
    if before.recipe.training.batching == "prefix_tree":
        raise TrainingError(
            f"On this model and device {found}: tree batches cannot be trained on.",
            hint="Set training.batching: padded, and please report this with the versions in run.json.",
        )
    say(f"WARNING     {found}. Training goes on with padded rows, which are slower.")
    return plan.verified(found, before.recipe.training)


def _begin(run: RunFolder, recipe: Recipe, found: dict[str, Any], *, overwrite: bool, resume: bool) -> None:
    if not IS_MAIN_PROCESS:
        return
    origin = {"versions": package_versions(), "git_commit": git_commit(), "command": sys.argv, "seed": recipe.seed}
    record = {**origin, **found}
    if resume and run.record:
        run.update(status="running", resumed=now(), **record)
    else:  # also a run that was killed before it had a run.json
        run.begin(record, dump_recipe(recipe), replace=overwrite)
