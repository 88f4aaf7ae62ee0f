"""The estimate of the memory and disk space that a run needs, before it is started."""

import math
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from toolkit.batching.collators import tree_inputs
from toolkit.batching.prefix_tree import Branch, build_tree, common_prefix_length, split_by_nodes
from toolkit.batching.sampling import LENGTH_MULTIPLES, row_length_multiple
from toolkit.inference.label_trie import LabelTrie
from toolkit.inference.loading import scoring_batch_tokens
from toolkit.models.attention import find_tree_problem
from toolkit.models.gguf_types import FILE_TYPES
from toolkit.models.merging import merged_type
from toolkit.planning.device import Device
from toolkit.planning.job import TrainingJob
from toolkit.planning.memory import MemoryUse, scoring_memory, training_memory
from toolkit.planning.preflight import Preflight
from toolkit.planning.shapes import BatchShape, ModelShape
from toolkit.planning.traced_memory import find_traced_model, traced_scoring_memory, traced_training_memory
from toolkit.prompts.sentence_pairs import PairTokenizer
from toolkit.runs.run_paths import nearest_existing
from toolkit.utils.formatting import format_bytes

CUDA_CONTEXT_BYTES = 500_000_000
"""The approximate size of a CUDA context with cuBLAS. It cannot be measured before the context exists."""
_EXAMINED_STEPS = 32
_EXAMINED_PROMPTS = 512


@dataclass(frozen=True)
class ResourceEstimate:
    """The memory and disk space that a run is predicted to need, in bytes.

    Args:
        device: The device that the memory is predicted for.
        dtype_bytes: Bytes per weight or activation.
        training: The peak memory of a training step.
        scoring: The peak memory of an evaluation, or of a validation during training.
        adapter: Disk space of the adapter.
        checkpoints: Disk space of adapter and optimizer state in all checkpoints, including an extra one, because the
            oldest is deleted only after a new one is complete, and that of the best step if it is kept.
        export: Disk space of the merged model and the GGUF files of the recipe.
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
        """True if the predicted peaks of training and scoring are within the memory of the device."""
        return max(self.training.total, self.scoring.total) <= self.device.memory

    def record(self) -> dict[str, Any]:
        """Return the estimate for run.json."""
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
    """Predict the memory and disk space of a job from the configuration and the rows, without reading weights.

    Raises:
        ModelError: If the memory of the model cannot be predicted.
    """
    preflight, plan, device, recipe = job.preflight, job.plan, job.device, job.recipe
    dtype_bytes, is_encoder = device.dtype_bytes(preflight), recipe.model.kind == "encoder"
    weights = preflight.parameters.base_bytes(dtype_bytes, load_in_4bit=recipe.model.load_in_4bit)
    common: dict[str, Any] = {
        # On a CPU, this process has already imported everything that training needs, so its memory is the runtime's.
        "runtime": CUDA_CONTEXT_BYTES if device.kind == "cuda" else psutil.Process().memory_info().rss,
        "weights": weights,
        # Without an adapter, all weights are loaded in float32.
        "loading": _file_bytes(preflight, 4 if recipe.lora is None else dtype_bytes) if device.kind == "cpu" else 0,
    }
    train: dict[str, Any] = {
        "trainable": preflight.parameters.trainable,
        "checkpointing": plan.gradient_checkpointing,
        "optimizer": plan.optimizer,
    }
    training_shape = largest_encoder_batch(job) if is_encoder else largest_micro_batch(job)
    scoring_shape = _largest_scoring_batch(job)
    if (model := find_traced_model(preflight, device)) is not None:
        training = traced_training_memory(model, training_shape, **train, **common)
        scoring = traced_scoring_memory(model, scoring_shape, **common)
        if recipe.lora is None:  # all weights are trained and stored with the run, in float32
            scoring = replace(
                scoring, weights=preflight.parameters.weight_bytes(preflight.precision, load_in_4bit=False)
            )
    else:
        shape = ModelShape.from_config(preflight.config)
        common |= {"dtype_bytes": dtype_bytes, "on_cpu": device.kind == "cpu"}
        training = training_memory(shape, recipe.decoder_lora, training_shape, **train, **common)
        scoring = scoring_memory(shape, recipe.decoder_lora, scoring_shape, **common)
    if recipe.model.load_in_4bit:  # a linear layer unpacks its weights to compute with them
        unpacked = preflight.config.hidden_size * preflight.config.intermediate_size * dtype_bytes
        training = replace(training, working=training.working + unpacked)
    if plan.eval_steps is not None:  # a validation has what a training step keeps, but the activations of scoring
        scoring = replace(scoring, weights=training.weights, adapter=training.adapter)
    adapter = 4 * preflight.parameters.trainable
    limit, checkpoint_count = recipe.training.save_total_limit + 1, math.ceil(plan.steps / recipe.training.save_steps)
    if recipe.training.keep == "best" and plan.eval_steps is not None:
        limit, checkpoint_count = limit + 1, checkpoint_count + math.ceil(plan.steps / plan.eval_steps)
    return ResourceEstimate(
        device=device,
        dtype_bytes=dtype_bytes,
        training=training,
        scoring=scoring,
        adapter=adapter,
        # `training.adapter` includes gradients, which are as large as the adapter and are not part of a checkpoint.
        checkpoints=min(limit, checkpoint_count) * (training.adapter - adapter),
        export=0 if is_encoder else _export_bytes(preflight),
    )


def _file_bytes(preflight: Preflight[Any], dtype_bytes: int) -> int:
    """Return the bytes of the weight files if loading converts their dtype, and otherwise 0.

    Without a conversion, the pages of the files are the weights and must not be counted twice. Before a model is
    downloaded from the Hub, its files are assumed to be in 16-bit precision.
    """
    stored_dtype = preflight.config.dtype
    if stored_dtype is not None and stored_dtype.itemsize == dtype_bytes:
        return 0
    files = [path.stat().st_size for path in preflight.folder.glob("*.safetensors")]
    return sum(files) or 2 * (preflight.parameters.total - preflight.parameters.trainable)


def largest_micro_batch(job: TrainingJob) -> BatchShape:
    """Return the sizes of the largest micro-batch.

    Collating every step of the run would take too long. Only the first steps, and the steps of the first epoch that may
    need the most memory, are examined.
    """
    count = min(_EXAMINED_STEPS, job.plan.steps)
    batches = job.first_batches(count) + job.largest_batches(count)
    collate = job.collator()
    micro_batches = [micro_batch for rows in batches for micro_batch in collate(rows)["micro_batches"]]
    largest = max(micro_batches, key=lambda micro_batch: micro_batch["input_ids"].numel())
    return BatchShape.from_micro_batch(largest, max(len(micro_batch["nodes"]) for micro_batch in micro_batches))


def largest_encoder_batch(job: TrainingJob) -> BatchShape:
    """Return the sizes of the largest micro-batch of padded rows for an encoder in the first epoch."""
    lengths, order = [len(row) for row in job.preflight.train_rows], list(job.row_order())
    step, size = job.rows_per_process, job.plan.micro_batch_size
    order = order[: job.plan.steps * step]
    batches = [
        [lengths[i] for i in order[start : min(start + size, first + step)]]
        for first in range(0, len(order), step)
        for start in range(first, min(first + step, len(order)), size)
    ]
    rows, length = max(((len(batch), max(batch)) for batch in batches), key=lambda sizes: sizes[0] * sizes[1])
    length += -length % row_length_multiple(*job.device_and_dtype_bytes, job.recipe.model.max_seq_length)
    return BatchShape(rows, length, rows)


def _largest_scoring_batch(job: TrainingJob) -> BatchShape:
    """Return the sizes of the largest batch of an evaluation, estimated from training rows and the longest row."""
    preflight, longest = job.preflight, job.preflight.longest_row
    batch_tokens = scoring_batch_tokens(job.recipe, job.device.kind)
    if isinstance(preflight.row_tokenizer, PairTokenizer):  # an encoder
        longest += -longest % row_length_multiple(*job.device_and_dtype_bytes, job.recipe.model.max_seq_length)
        rows = max(batch_tokens, longest) // longest  # a batch contains at least one row
        return BatchShape(rows, longest, rows)
    labels = LabelTrie(preflight.row_tokenizer.label_ids)
    if find_tree_problem(preflight.config) is not None:  # each label of each row is scored separately
        return BatchShape(1, longest, len(labels.contexts))
    # Evaluation rows have the same instruction and are assumed to have similar lengths.
    prompts = [row.prompt for row in preflight.train_rows[:_EXAMINED_PROMPTS]]
    # On a CPU, the common prefix is cached; see `TorchScorer`.
    prefix = min(common_prefix_length(prompts), min(map(len, prompts)) - 1) if job.device.kind == "cpu" else 0
    suffixes = [prompt[prefix:] for prompt in prompts]
    batches = split_by_nodes(suffixes, [len(labels.contexts)] * len(suffixes), batch_tokens)
    trees = [_scoring_tree(job, [suffixes[row] for row in rows], labels, prefix) for rows in batches]
    # A single evaluation row can be longer than all of these trees. Its token ids do not matter.
    longest_prompt = (0,) * max(1, longest - prefix - min(map(len, labels.sequences.values())))
    trees.append(_scoring_tree(job, [longest_prompt], labels, prefix))
    return max(trees, key=lambda tree: (tree.tokens, tree.group_keys))


def _scoring_tree(job: TrainingJob, suffixes: Sequence[Sequence[int]], labels: LabelTrie, prefix: int) -> BatchShape:
    """Return the sizes of the tree in which `TorchScorer` scores rows after a cached prefix."""
    branches = [
        Branch([*suffix, *context], len(suffix) - 1, row)
        for row, suffix in enumerate(suffixes)
        for context in labels.contexts
    ]
    tree = build_tree(branches)
    nodes = [path[branch.max_shared :] for branch, path in zip(branches, tree.paths, strict=True)]
    inputs = tree_inputs(
        tree.with_length_multiple_of(LENGTH_MULTIPLES[job.device_and_dtype_bytes]),
        np.concatenate(nodes),
        job.plan.tree_attention,
    )
    return BatchShape.from_micro_batch(inputs, len(branches), prefix)


def _export_bytes(preflight: Preflight[Any]) -> int:
    """Return the disk space of an export: merged weights, intermediate GGUF file and the GGUF files of the recipe."""
    base = preflight.parameters.total - preflight.parameters.trainable
    matrices = preflight.parameters.quantizable
    types, source = preflight.recipe.export.gguf, merged_type(preflight.config)
    # The quantizer of llama.cpp reads an unquantized GGUF file, so the merged weights are then stored twice.
    copies = [source] * (1 + any(FILE_TYPES[file_type].needs_quantizer for file_type in types))
    return sum(FILE_TYPES[file_type].file_bytes(matrices, base - matrices) for file_type in [*copies, *types])


def format_estimate(estimate: ResourceEstimate, verdict: str) -> str:
    """Return the estimate and the verdict as text for a terminal.

    A negative verdict does not stop a run, because a prediction can be off by 20%.
    """
    export = f", export {format_bytes(estimate.export)}" if estimate.export else ""
    return (
        f"memory      training {estimate.training}\n"
        f"            scoring {format_bytes(estimate.scoring.total)}; "
        f"disk: checkpoints {format_bytes(estimate.checkpoints)}{export}\n"
        f"verdict     {verdict}"
    )


def disk_warning(estimate: ResourceEstimate, folder: Path) -> str | None:
    """Return a warning if the disk of `folder`, which need not exist yet, is too small for a new run, or None."""
    needed = estimate.adapter + estimate.checkpoints
    free = shutil.disk_usage(nearest_existing(folder)).free
    if needed <= free:
        return None
    return (
        f"WARNING     adapter and checkpoints will take {format_bytes(needed)}, but {folder} has {format_bytes(free)} "
        "free. Free up space or lower training.save_total_limit."
    )
