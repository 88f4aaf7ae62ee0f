"""The planner, which resolves every `auto` of the training section before weights are loaded, and records why."""

import math
import os
from dataclasses import replace
from typing import Any

from toolkit.batching.collators import PaddedCollator, Row, TreeCollator
from toolkit.batching.sampling import (
    HOPPER_DENSE_NODES,
    LARGE_TREE_NODES,
    MAX_TREE_NODES,
    choose_batch_tokens,
    choose_micro_batch,
)
from toolkit.errors import ModelError, RecipeError
from toolkit.inference.label_trie import LabelTrie
from toolkit.models.attention import find_tree_problem
from toolkit.planning.batching import Batching
from toolkit.planning.device import Device, this_device
from toolkit.planning.job import Collator, Plan, TrainingJob, choose_grouping
from toolkit.planning.memory import activation_bytes_per_token
from toolkit.planning.preflight import Preflight
from toolkit.planning.shapes import ModelShape
from toolkit.planning.traced_memory import find_traced_model, traced_bytes_per_token
from toolkit.planning.validation_plan import plan_validation
from toolkit.prompts.sentence_pairs import PairTokenizer

_MIN_TOKEN_RATIO = 1.3
"""The minimum ratio of padded tokens to tree nodes at which trees are used. Below it, building them can cost more."""
_MEASURED_STEPS = 32
_COMPLETION_SHARE = 0.25
"""An upper bound for the completion's share of the tokens that a row does not share with other rows."""
_UNSHARED_PROMPT = 16
"""The number of tokens of a prompt that are taken to be unshared if a row has the tokens of many labels."""
_ENCODER_REASON = "an encoder attends in both directions, so rows share no prefix that could be computed once"


def plan_job(preflight: Preflight[Any], device: Device | None = None) -> TrainingJob:
    """Resolve every `auto` of the recipe's training section for a device.

    Args:
        preflight: The checked recipe and its rows.
        device: The device to plan for. Defaults to the device of this process.

    Raises:
        RecipeError: If the batch cannot be divided among the processes, or the recipe requires trees that the model
            cannot compute.
    """
    training = preflight.recipe.training
    device = device or this_device()
    processes = int(os.environ.get("WORLD_SIZE", "1"))  # set by torchrun and accelerate
    if training.batch_size % processes:
        raise RecipeError(
            f"training.batch_size {training.batch_size} is not a multiple of the number of processes ({processes}).",
            hint="Set it to a multiple, or start fewer processes.",
        )
    max_nodes = LARGE_TREE_NODES if device.has_large_trees else MAX_TREE_NODES
    checkpointing = training.gradient_checkpointing
    if checkpointing == "auto":
        checkpointing = _needs_checkpointing(preflight, device, max_nodes, training.batch_size // processes)
    affordable_tokens = _affordable_tokens(preflight, device, checkpointing)
    steps_per_epoch = len(preflight.train_rows) / training.batch_size
    # Several processes drop the incomplete last batch of an epoch, because all of them must take part in each step.
    steps_per_epoch = math.ceil(steps_per_epoch) if processes == 1 else math.floor(steps_per_epoch)
    if not steps_per_epoch:
        raise RecipeError(
            f"{len(preflight.train_rows)} training rows do not fill a batch of {training.batch_size} for {processes} "
            "processes.",
            hint="Lower training.batch_size, or start one process.",
        )
    micro_batch_size, batch_tokens = _choose_sizes(preflight, processes, affordable_tokens, max_nodes)
    optimizer = "adamw_8bit" if device.kind == "cuda" else "adamw_torch_fused"
    # A preliminary plan: the choice of batching counts tokens in its first steps, so it needs their rows and sizes.
    plan = Plan(
        batching=Batching("prefix_tree", "the recipe sets training.batching"),
        batch_size=training.batch_size,
        processes=processes,
        steps=training.max_steps or math.ceil(steps_per_epoch * training.epochs),
        # A configured size can exceed the share of the batch that this process has.
        micro_batch_size=min(micro_batch_size, training.batch_size // processes),
        batch_tokens=batch_tokens,
        group_by=choose_grouping(preflight.recipe, uses_trees=training.batching != "padded"),
        gradient_checkpointing=checkpointing,
        optimizer=optimizer if training.optimizer == "auto" else training.optimizer,
        dense_nodes=HOPPER_DENSE_NODES if device.is_hopper else 0,
    )
    job = TrainingJob(preflight, plan, device)
    plan = replace(plan, batching=_choose_batching(job))
    job = job.with_plan(replace(plan, group_by=choose_grouping(preflight.recipe, uses_trees=plan.is_tree)))
    eval_steps, eval_reason = plan_validation(job)
    return job.with_plan(replace(job.plan, eval_steps=eval_steps, eval_reason=eval_reason))


def _choose_sizes(preflight: Preflight[Any], processes: int, affordable_tokens: int, max_nodes: int) -> tuple[int, int]:
    """Return the rows per forward pass of padded batches, and the nodes per forward pass of trees."""
    training = preflight.recipe.training
    micro_batch_size, batch_tokens = training.micro_batch_size, training.batch_tokens
    if micro_batch_size == "auto":
        micro_batch_size = choose_micro_batch(
            training.batch_size, processes, preflight.tokens.longest * _sequences_per_row(preflight), affordable_tokens
        )
    if batch_tokens == "auto":
        longest = preflight.tokens.longest + _count_label_nodes(preflight)
        batch_tokens = choose_batch_tokens(longest, affordable_tokens, max_nodes)
    return micro_batch_size, batch_tokens


def _count_label_nodes(preflight: Preflight[Any]) -> int:
    """Return the number of nodes that the labels of a row add to a tree. 0 if a row has only its own answer."""
    row_tokenizer = preflight.row_tokenizer
    if _sequences_per_row(preflight) == 1 or isinstance(row_tokenizer, PairTokenizer):
        return 0
    return len(LabelTrie(row_tokenizer.label_ids).contexts)


def _sequences_per_row(preflight: Preflight[Any]) -> int:
    """Return the number of sequences that a row has in padded batches: one, or one for each label."""
    recipe = preflight.recipe
    is_compared = recipe.training.objective == "labels" or recipe.training.label_smoothing > 0
    is_soft = any(example.soft_label for example in preflight.splits.train)
    return len(recipe.task.labels) if recipe.model.kind == "decoder" and (is_compared or is_soft) else 1


def _choose_batching(job: TrainingJob) -> Batching:
    """Choose trees or padded batches by the number of tokens that trees save in the first steps."""
    recipe, plan = job.recipe, job.plan
    if recipe.model.kind == "encoder":
        return Batching("padded", _ENCODER_REASON)
    batching, loss_on = recipe.training.batching, recipe.training.loss_on
    if batching != "padded" and (problem := find_tree_problem(job.preflight.config)):
        if batching == "prefix_tree":
            raise RecipeError(
                f"training.batching: prefix_tree is not available for this model, because {problem}.",
                hint="Set training.batching: auto, which then pads the rows.",
            )
        return Batching("padded", problem)
    # Padded rows can have a sequence for each label, and counting those of hundreds of labels takes a long time.
    steps = max(1, _MEASURED_STEPS // _sequences_per_row(job.preflight))
    batches, labels = job.first_batches(steps), job.label_targets
    padded = _count_tokens(PaddedCollator(plan.micro_batch_size, loss_on, labels), batches)
    nodes = _count_tokens(TreeCollator(plan.batch_tokens, loss_on, labels=labels), batches)
    ratio = round(padded / nodes, 3)
    measurement = f"{padded / len(batches):,.0f} padded tokens per step become {nodes / len(batches):,.0f} tree nodes"
    if batching != "auto":
        return Batching(batching, f"the recipe sets training.batching; {measurement}, a ratio of {ratio:.2f}", ratio)
    if ratio >= _MIN_TOKEN_RATIO:
        return Batching("prefix_tree", f"{measurement}, a ratio of {ratio:.2f}", ratio)
    return Batching(
        "padded", f"{measurement}: a ratio of {ratio:.2f} is below {_MIN_TOKEN_RATIO}, so trees are not worth it", ratio
    )


def _count_tokens(collate: Collator, batches: list[list[Row]]) -> int:
    return sum(micro_batch["input_ids"].numel() for rows in batches for micro_batch in collate(rows)["micro_batches"])


def _needs_checkpointing(preflight: Preflight[Any], device: Device, max_nodes: int, rows: int) -> bool:
    """Return True if a GPU would have to split a step, or a tree of the largest useful size, because of activations.

    Without checkpointing, the passes of a tree of 16 rows take about a third less time on an H200 (docs/gpu.md).
    """
    training, longest = preflight.recipe.training, preflight.tokens.longest
    if training.batching == "padded":
        longest *= _sequences_per_row(preflight)
    else:
        longest += _count_label_nodes(preflight)
    if device.kind == "cpu" or preflight.recipe.model.kind == "encoder":
        return device.kind == "cuda"  # not measured for encoders
    if training.batching == "padded":
        tokens = longest * (rows if training.micro_batch_size == "auto" else training.micro_batch_size)
    else:
        # Without shared prefixes, a tree has as many nodes as its rows have tokens.
        largest = max_nodes if training.batch_tokens == "auto" else training.batch_tokens
        tokens = max(longest, min(largest, longest * rows))
    return _affordable_tokens(preflight, device, checkpointing=False) < tokens


def _affordable_tokens(preflight: Preflight[Any], device: Device, checkpointing: bool) -> int:
    """Return the number of tokens whose activations fit into half of the memory that the weights leave."""
    recipe, dtype_bytes = preflight.recipe, device.dtype_bytes(preflight)
    try:
        per_token = _bytes_per_token(preflight, device, checkpointing)
    except ModelError:  # reported with the memory; then `auto` is the smallest size
        return 0
    weights = preflight.parameters.base_bytes(dtype_bytes, load_in_4bit=recipe.model.load_in_4bit)
    return max(0, device.memory - weights) // 2 // per_token


def _bytes_per_token(preflight: Preflight[Any], device: Device, checkpointing: bool) -> int:
    recipe = preflight.recipe
    labels = _count_label_nodes(preflight)
    share = max(_COMPLETION_SHARE, labels / (labels + _UNSHARED_PROMPT))
    target_share = 1.0 if recipe.training.loss_on == "full_text" else share
    if (model := find_traced_model(preflight, device)) is not None:
        return traced_bytes_per_token(
            model, preflight.tokens.longest, checkpointing=checkpointing, target_share=target_share
        )
    return activation_bytes_per_token(
        ModelShape.from_config(preflight.config),
        recipe.decoder_lora,
        dtype_bytes=device.dtype_bytes(preflight),
        checkpointing=checkpointing,
        target_share=target_share,
    )
