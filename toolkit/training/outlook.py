"""What a run will need before it begins: memory by its terms, disk, and whether that fits - and if not, what would."""

import math
import resource
import shutil
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import psutil
import torch

from toolkit.decoding.engines import scoring_nodes
from toolkit.errors import GateError, RecipeError
from toolkit.file_types import FILE_TYPES
from toolkit.model.backend import DEVICE
from toolkit.model.memory import MemoryUse, scoring_memory, training_memory
from toolkit.model.merging import merged_type
from toolkit.model.parameters import model_config
from toolkit.model.shapes import ModelShape, Part
from toolkit.preflight import Preflight, run_preflight, use_colour
from toolkit.recipe import Recipe
from toolkit.recipe_file import as_assignment
from toolkit.run_place import nearest_existing
from toolkit.training.plan import T4, Device, Plan, first_batches, largest_batches, make_plan, this_device
from toolkit.training.probe import probe
from toolkit.training.ways import WAYS

CUDA_CONTEXT = 500_000_000
"""A CUDA context with cuBLAS, roughly; torch cannot tell it before there is one."""
_LOOKED_AT = 32


@dataclass(frozen=True)
class Outlook:
    """What training and scoring will hold on a device, and what a run will leave on the disk, in bytes.

    Args:
        device: where.
        item: bytes of a number in weights and activations.
        training: the peak of a step.
        scoring: the peak of an evaluation.
        adapter: the run's result.
        checkpoints: adapter and optimiser, for those that are kept and one more: the oldest goes when a new one is
            whole.
        export: merged weights and the recipe's GGUFs.
    """

    device: Device
    item: int
    training: MemoryUse
    scoring: MemoryUse
    adapter: int
    checkpoints: int
    export: int

    @property
    def fits(self) -> bool:
        """Whether the predicted peaks, of a training step and of an evaluation, are within the device's memory."""
        return max(self.training.total, self.scoring.total) <= self.device.memory

    def record(self) -> dict[str, Any]:
        """For run.json."""
        return {
            "device": asdict(self.device),
            "training": {**asdict(self.training), "total": self.training.total, "peak": self.training.peak},
            "scoring": {**asdict(self.scoring), "total": self.scoring.total, "peak": self.scoring.peak},
            "adapter_bytes": self.adapter,
            "checkpoint_bytes": self.checkpoints,
            "export_bytes": self.export,
            "fits": self.fits,
        }


def look_ahead(before: Preflight[Any], plan: Plan, device: Device | None = None) -> Outlook:
    """Predict from the configuration and the rows; no weights are read.

    Args:
        before: the recipe and its rows.
        plan: the steps, made for `device`.
        device: where; default: this one.
    """
    device = device or this_device()
    recipe, shape = before.recipe, ModelShape.of(model_config(before.folder))
    item = device.item(before)
    weights = before.parameters.base_bytes(item, load_in_4bit=recipe.model.load_in_4bit)
    runtime = CUDA_CONTEXT if device.kind == "cuda" else psutil.Process().memory_info().rss
    loading = _file_bytes(before, item) if device.kind == "cpu" else 0
    shared = {"runtime": runtime, "weights": weights, "item": item, "loading": loading}
    training = training_memory(
        shape,
        recipe.lora,
        largest_part(before, plan),
        trainable=before.parameters.trainable,
        checkpointing=plan.gradient_checkpointing,
        optimizer=plan.optimizer,
        on_cpu=device.kind == "cpu",
        **shared,
    )
    if recipe.model.load_in_4bit:  # a layer's weights are unpacked while it computes
        training = replace(training, working=training.working + shape.hidden * shape.intermediate * item)
    nodes = max(scoring_nodes(recipe, device.kind), before.longest_row)  # a tree holds one row at least
    scored = Part(nodes, nodes * (nodes + before.longest_row), nodes // 2, is_tree=True)
    adapter = 4 * before.parameters.trainable
    saved = math.ceil(plan.steps / recipe.training.save_steps)
    return Outlook(
        device=device,
        item=item,
        training=training,
        scoring=scoring_memory(shape, recipe.lora, scored, **shared),
        adapter=adapter,
        checkpoints=min(recipe.training.save_total_limit + 1, saved) * (training.adapter - adapter),
        export=_export_bytes(before),
    )


def _file_bytes(before: Preflight[Any], item: int) -> int:
    """Of the weights' files; before a hub model is fetched, of 16-bit ones. Unconverted, they are the weights."""
    saved = model_config(before.folder).dtype
    if saved is not None and saved.itemsize == item:
        return 0
    files = [path.stat().st_size for path in before.folder.glob("*.safetensors")]
    return sum(files) or 2 * (before.parameters.total - before.parameters.trainable)


def largest_part(before: Preflight[Any], plan: Plan) -> Part:
    """The largest part of the first steps and of those of the first epoch that may need most."""
    count = min(_LOOKED_AT, plan.steps)
    batches = first_batches(before, plan, count) + largest_batches(before, plan, count)
    collate = plan.collator(before.recipe.training.loss_on)
    parts = [part for rows in batches for part in collate(rows)["parts"]]
    largest = max(parts, key=lambda part: part["input_ids"].numel())
    rows, length = largest["input_ids"].shape
    return Part(
        tokens=rows * length,
        mask=rows * length**2,
        predictions=max(len(part["nodes"]) for part in parts),
        is_tree=plan.is_tree,
    )


def _export_bytes(before: Preflight[Any]) -> int:
    """Merged weights, in the base's type, the recipe's files, and what is written to make them; as `export` demands."""
    base = before.parameters.total - before.parameters.trainable
    matrices = before.parameters.quantisable
    types, source = before.recipe.export.gguf, merged_type(before.folder)
    # llama.cpp's quantiser reads a GGUF of the merged weights.
    copies = [source] * (1 + any(FILE_TYPES[one].needs_quantiser for one in types))
    return sum(FILE_TYPES[one].file_bytes(matrices, base - matrices) for one in [*copies, *types])


def advice(before: Preflight[Any], outlook: Outlook) -> str | None:
    """The first change of the recipe's keys, or the first few together, with which the formula says that it fits."""
    device, changed = outlook.device, dict[str, Any]()
    for key, value in _changes(before, outlook):
        changed[key] = value
        recipe = _with(before.recipe, changed)
        tried = replace(before, recipe=recipe)
        if look_ahead(tried, make_plan(tried, device=device), device).fits:
            return "set " + ", ".join(as_assignment(name, new) for name, new in changed.items())
    return None


def _changes(before: Preflight[Any], outlook: Outlook) -> Iterator[tuple[str, Any]]:
    """From what costs nothing to what costs speed; no part becomes larger than the recipe sets it."""
    recipe, device = before.recipe, outlook.device
    if outlook.scoring.total > device.memory and before.longest_row < scoring_nodes(recipe, device.kind):
        yield "evaluation.batch_tokens", before.longest_row
    is_tree = make_plan(before, device=device).is_tree
    part, smallest = ("batch_tokens", before.tokens.longest) if is_tree else ("micro_batch_size", 1)
    given = getattr(recipe.training, part)
    if given != "auto":
        chosen = replace(before, recipe=_with(recipe, {f"training.{part}": "auto"}))
        if getattr(make_plan(chosen, device=device), part) < given:
            yield f"training.{part}", "auto"
    if recipe.training.gradient_checkpointing is not True:
        yield "training.gradient_checkpointing", True
    if given == "auto" or smallest < given:
        yield f"training.{part}", smallest
    if not recipe.model.load_in_4bit and device.kind == "cuda":
        yield "model.load_in_4bit", True


def _with(recipe: Any, changed: dict[str, Any]) -> Any:
    for key, value in changed.items():
        section, name = key.split(".")
        recipe = recipe.model_copy(update={section: getattr(recipe, section).model_copy(update={name: value})})
    return recipe


def verdict(before: Preflight[Any], outlook: Outlook) -> str:
    """`fits`, or `does not fit` and what to change."""
    name, memory = outlook.device.name, outlook.device.memory
    training, scoring = outlook.training.total / 1e9, outlook.scoring.total / 1e9
    needed = f"training {training:.2f} GB, scoring {scoring:.2f} GB of {memory / 1e9:.1f} GB"
    if outlook.fits:
        return f"{name}: fits: {needed}"
    change = advice(before, outlook) or "no key of the recipe helps: take a smaller model or more memory"
    return f"{name}: does not fit: {needed}; {change}"


def outlook_lines(outlook: Outlook, said: str) -> str:
    """For a terminal. The verdict `said` only warns a run: a prediction may be a fifth off."""
    return (
        f"memory      training {outlook.training}\n"
        f"            scoring {outlook.scoring.total / 1e9:.2f} GB; disk: checkpoints {outlook.checkpoints / 1e9:.2f}, "
        f"export {outlook.export / 1e9:.2f} GB\n"
        f"verdict     {said}"
    )


def disk_warning(outlook: Outlook, folder: Path) -> str | None:
    """A line where the disk of `folder`, which need not exist yet, holds less than a new run will leave there."""
    needed = outlook.adapter + outlook.checkpoints
    free = shutil.disk_usage(nearest_existing(folder)).free
    if needed <= free:
        return None
    return (
        f"WARNING     adapter and checkpoints will take {needed / 1e9:.2f} GB, and {folder} has {free / 1e9:.2f} GB "
        "free; make room, or lower training.save_total_limit"
    )


def peak_memory_bytes() -> int:
    """The most memory this process has held: on the GPU where there is one, else resident."""
    if DEVICE == "cuda":
        return torch.cuda.max_memory_allocated()
    scale = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * scale


def print_preflight(recipe: Recipe, *, memory: int | None, probing: bool) -> None:
    """Print what is known before training: rows, tokens, memory here, on a T4 and on a GPU of `memory` bytes.

    Raises:
        ToolkitError: the recipe cannot work, or asks for `memory` with an encoder, whose memory nothing predicts.
        GateError: training does not fit: into `memory` where it is given, else here.
    """
    if memory and recipe.model.kind != "decoder":
        raise RecipeError(
            f"--memory cannot be answered for model.kind {recipe.model.kind}: memory is predicted for decoders alone.",
            hint="Measure it here: leave out --memory, and give --probe.",
        )
    before = run_preflight(recipe, weights=probing)
    print(f"{before.report()}\n\n{before.examples(colour=use_colour())}\n")
    plan = WAYS[recipe.model.kind].plan(before)
    print(f"batch       {plan}")
    if recipe.model.kind == "decoder":
        here = look_ahead(before, plan)
        judged, said = here, verdict(before, here)
        print(outlook_lines(here, said))
        print(f"            {verdict(before, _on(before, T4))}")
        if memory:
            judged = _on(before, Device(f"a GPU of {memory / 1e9:.3g} GB", "cuda", memory))
            said = verdict(before, judged)
            print(f"            {said}")
        if not judged.fits:
            raise GateError(f"On {said}.")
    if probing:
        print(f"probe       {probe(before, plan)}; peak memory {peak_memory_bytes() / 1e9:.2f} GB")


def _on(before: Preflight[Any], device: Device) -> Outlook:
    return look_ahead(before, make_plan(before, device=device), device)
