"""What a run will need before it is started: memory by its terms, and disk."""

import math
import shutil
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import psutil

from toolkit.inference.loading import scoring_nodes
from toolkit.models.gguf_types import FILE_TYPES
from toolkit.models.merging import merged_type
from toolkit.planning.device import Device
from toolkit.planning.job import TrainingJob
from toolkit.planning.memory import MemoryUse, scoring_memory, training_memory
from toolkit.planning.preflight import Preflight
from toolkit.planning.shapes import BatchShape, ModelShape
from toolkit.runs.run_paths import nearest_existing

CUDA_CONTEXT = 500_000_000
"""A CUDA context with cuBLAS, roughly; torch cannot tell it before there is one."""
_EXAMINED_STEPS = 32


@dataclass(frozen=True)
class ResourceEstimate:
    """What training and scoring will hold on a device, and what a run will leave on the disk, in bytes.

    Args:
        device: where.
        dtype_bytes: bytes of a number in weights and activations.
        training: the peak of a step.
        scoring: the peak of an evaluation.
        adapter: the run's result.
        checkpoints: adapter and optimiser, for those that are kept and one more: the oldest goes when a new one is
            whole.
        export: merged weights and the recipe's GGUFs.
    """

    device: Device
    dtype_bytes: int
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


def estimate_resources(job: TrainingJob) -> ResourceEstimate:
    """Predict what a decoder's job will hold on its device; from configuration and rows, without reading weights."""
    preflight, plan, device = job.preflight, job.plan, job.device
    recipe, shape = job.recipe, ModelShape.from_config(preflight.config)
    dtype_bytes = device.dtype_bytes(preflight)
    weights = preflight.parameters.base_bytes(dtype_bytes, load_in_4bit=recipe.model.load_in_4bit)
    runtime = CUDA_CONTEXT if device.kind == "cuda" else psutil.Process().memory_info().rss
    loading = _file_bytes(preflight, dtype_bytes) if device.kind == "cpu" else 0
    common_arguments = {"runtime": runtime, "weights": weights, "dtype_bytes": dtype_bytes, "loading": loading}
    training = training_memory(
        shape,
        recipe.lora,
        largest_micro_batch(job),
        trainable=preflight.parameters.trainable,
        checkpointing=plan.gradient_checkpointing,
        optimizer=plan.optimizer,
        on_cpu=device.kind == "cpu",
        **common_arguments,
    )
    if recipe.model.load_in_4bit:  # a layer's weights are unpacked while it computes
        training = replace(training, working=training.working + shape.hidden * shape.intermediate * dtype_bytes)
    nodes = max(scoring_nodes(recipe, device.kind), preflight.longest_row)  # a tree holds one row at least
    scoring_shape = BatchShape(nodes, nodes * (nodes + preflight.longest_row), nodes // 2, is_tree=True)
    adapter = 4 * preflight.parameters.trainable
    checkpoint_count = math.ceil(plan.steps / recipe.training.save_steps)
    return ResourceEstimate(
        device=device,
        dtype_bytes=dtype_bytes,
        training=training,
        scoring=scoring_memory(shape, recipe.lora, scoring_shape, on_cpu=device.kind == "cpu", **common_arguments),
        adapter=adapter,
        checkpoints=min(recipe.training.save_total_limit + 1, checkpoint_count) * (training.adapter - adapter),
        export=_export_bytes(preflight),
    )


def _file_bytes(preflight: Preflight[Any], dtype_bytes: int) -> int:
    """Of the weights' files; before a hub model is fetched, of 16-bit ones. Unconverted, they are the weights."""
    stored_dtype = preflight.config.dtype
    if stored_dtype is not None and stored_dtype.itemsize == dtype_bytes:
        return 0
    files = [path.stat().st_size for path in preflight.folder.glob("*.safetensors")]
    return sum(files) or 2 * (preflight.parameters.total - preflight.parameters.trainable)


def largest_micro_batch(job: TrainingJob) -> BatchShape:
    """Return the largest micro-batch of the first steps and of those of the first epoch that may need most."""
    count = min(_EXAMINED_STEPS, job.plan.steps)
    batches = job.first_batches(count) + job.largest_batches(count)
    collate = job.collator()
    micro_batches = [micro_batch for rows in batches for micro_batch in collate(rows)["parts"]]
    largest = max(micro_batches, key=lambda micro_batch: micro_batch["input_ids"].numel())
    rows, length = largest["input_ids"].shape
    return BatchShape(
        tokens=rows * length,
        mask=rows * length**2,
        predictions=max(len(micro_batch["nodes"]) for micro_batch in micro_batches),
        is_tree=job.plan.is_tree,
    )


def _export_bytes(preflight: Preflight[Any]) -> int:
    """Merged weights, in the base's type, the recipe's files, and what is written to make them; as `export` demands."""
    base = preflight.parameters.total - preflight.parameters.trainable
    matrices = preflight.parameters.quantizable
    types, source = preflight.recipe.export.gguf, merged_type(preflight.config)
    # llama.cpp's quantiser reads a GGUF of the merged weights.
    copies = [source] * (1 + any(FILE_TYPES[file_type].needs_quantizer for file_type in types))
    return sum(FILE_TYPES[file_type].file_bytes(matrices, base - matrices) for file_type in [*copies, *types])


def estimate_lines(estimate: ResourceEstimate, verdict: str) -> str:
    """For a terminal. The verdict `verdict` only warns a run: a prediction may be a fifth off."""
    return (
        f"memory      training {estimate.training}\n"
        f"            scoring {estimate.scoring.total / 1e9:.2f} GB; "
        f"disk: checkpoints {estimate.checkpoints / 1e9:.2f}, export {estimate.export / 1e9:.2f} GB\n"
        f"verdict     {verdict}"
    )


def disk_warning(estimate: ResourceEstimate, folder: Path) -> str | None:
    """A line where the disk of `folder`, which need not exist yet, holds less than a new run will leave there."""
    needed = estimate.adapter + estimate.checkpoints
    free = shutil.disk_usage(nearest_existing(folder)).free
    if needed <= free:
        return None
    return (
        f"WARNING     adapter and checkpoints will take {needed / 1e9:.2f} GB, and {folder} has {free / 1e9:.2f} GB "
        "free; make room, or lower training.save_total_limit"
    )
