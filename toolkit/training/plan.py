"""How the rows of an optimiser step go through the model: decided before any weight is loaded, with the reasons."""

import math
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import psutil
import torch

from toolkit.batching.collators import LossOn, PaddedCollator, Row, TreeCollator, training_row
from toolkit.batching.sampling import RowOrder, choose_batch_tokens, choose_micro_batch
from toolkit.errors import RecipeError, RunError
from toolkit.model.backend import DEVICE, device_name
from toolkit.model.memory import activation_bytes_per_token
from toolkit.model.parameters import model_config
from toolkit.model.shapes import ModelShape
from toolkit.preflight import Preflight
from toolkit.recipe import Training
from toolkit.training.verification import Verification

Collator = Callable[[list[Row]], dict[str, Any]]

_PAYS_FROM = 1.3
"""Padded tokens per node from which a tree is taken: below, building it and its mask may cost what it saves."""
CONTAINER_LIMITS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))
_MEASURED_STEPS = 32
_ANSWER_SHARE = 0.25
"""More than any answer's share of the tokens that its row has for itself."""


@dataclass(frozen=True)
class Device:
    """Where a run trains.

    Args:
        name: for people.
        kind: cpu or cuda.
        memory: bytes, all of them, not those that are free: the same recipe on the same machine makes the same parts.
    """

    name: str
    kind: str
    memory: int

    def item(self, before: Preflight) -> int:
        """Bytes of a number in weights and activations; on a GPU that is not here 2, unless the recipe says float32."""
        if self == this_device():
            return before.precision.dtype.itemsize
        return 4 if before.recipe.model.dtype == "float32" else 2


T4 = Device("T4", "cuda", 15_800_000_000)
"""What CUDA gives of the 16 GB of an Nvidia T4."""


def this_device() -> Device:
    """The device of this process."""
    if DEVICE == "cuda":
        return Device(device_name(), "cuda", torch.cuda.get_device_properties(0).total_memory)
    return Device(device_name(), "cpu", min([psutil.virtual_memory().total, *_container_limits()]))


def _container_limits() -> Iterator[int]:
    """Bytes that a control group allows its processes, where one does: version 2 says `max` for no limit, 1 a huge one.

    Inside a container, whose own group is seen as the root.
    """
    for path in CONTAINER_LIMITS:
        with suppress(OSError, ValueError):
            yield int(path.read_text(encoding="ascii"))


@dataclass(frozen=True)
class Batching:
    """How rows become tensors, and why.

    `token_ratio` is padded tokens per tree node, `verification` how a tree differs from padded rows on this model; None
    before they are measured.
    """

    name: Literal["prefix_tree", "padded"]
    reason: str
    token_ratio: float | None = None
    verification: Verification | None = None


@dataclass(frozen=True)
class Plan:
    """One optimiser step, resolved for this device.

    Args:
        batch_size: rows per step, over all processes.
        processes: how many share them.
        steps: optimiser steps of the run.
        micro_batch_size: rows per forward pass of padded batches.
        batch_tokens: nodes per forward pass of tree batches.
        group_by_premise: whether the rows of a premise stand next to each other.
    """

    batching: Batching
    batch_size: int
    processes: int
    steps: int
    micro_batch_size: int
    batch_tokens: int
    group_by_premise: bool
    gradient_checkpointing: bool
    optimizer: str

    def __str__(self) -> str:
        grouped = "premises together" if self.group_by_premise else "shuffled"
        parts = f"at most {self.batch_tokens:,} nodes" if self.is_tree else f"{self.micro_batch_size} rows"
        return (
            f"{self.batching.name}: {self.batching.reason}\n"
            f"            {self.batch_size} rows per step, {grouped}, processes: {self.processes}, {parts} per forward "
            f"pass; {self.steps:,} steps of {self.optimizer}"
        )

    @property
    def is_tree(self) -> bool:
        """Whether rows are merged into prefix trees."""
        return self.batching.name == "prefix_tree"

    def collator(self, loss_on: LossOn) -> Collator:
        """What makes a step's tensors of its rows."""
        if self.is_tree:
            return TreeCollator(self.batch_tokens, loss_on)
        return PaddedCollator(self.micro_batch_size, loss_on)

    def verified(self, found: Verification, training: Training) -> "Plan":
        """The plan with what was found out about its trees: with padded rows where they would train something else."""
        batching = replace(self.batching, verification=found)
        if found.passed:
            return replace(self, batching=batching)
        return replace(
            self,
            batching=replace(batching, name="padded", reason=f"tree batches were refused: {found}"),
            group_by_premise=_is_grouped(training, in_trees=False),
        )

    def as_begun(self, record: Mapping[str, Any]) -> "Plan":
        """The plan with what `auto` made of memory and rows when the run of this run.json began.

        Raises:
            RunError: run.json holds no such plan.
        """
        if not record:
            return self
        kept: dict[str, Any] = {}
        try:
            found = record["batching"]["verification"]
            batching = Batching(**{**record["batching"], "verification": Verification(**found) if found else None})
            for name, kind in (("micro_batch_size", int), ("batch_tokens", int), ("group_by_premise", bool)):
                kept[name] = record[name]
                if type(record[name]) is not kind:
                    raise TypeError
        except (KeyError, TypeError) as error:
            raise RunError(
                "The plan of steps in run.json is damaged, or another version of this toolkit wrote it.",
                hint="Put run.json back from a copy, or start anew with --overwrite or --output-dir.",
            ) from error
        return replace(self, batching=batching, **kept)


def make_plan(
    before: Preflight, choose: Callable[[Preflight, Plan], Batching] | None = None, device: Device | None = None
) -> Plan:
    """Resolve every `auto` of the recipe's training section for a device.

    Args:
        before: the recipe and its rows.
        choose: how rows become tensors; left out, what a tree would save is measured.
        device: which; default: this one.

    Raises:
        RecipeError: the batch cannot be shared by the processes.
    """
    training = before.recipe.training
    device = device or this_device()
    checkpointing = (
        device.kind == "cuda" if training.gradient_checkpointing == "auto" else training.gradient_checkpointing
    )
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    if training.batch_size % processes:
        raise RecipeError(
            f"training.batch_size {training.batch_size} is no multiple of {processes} processes.",
            hint="Choose a multiple, or start fewer processes.",
        )
    affordable = _affordable_tokens(before, device, checkpointing)
    steps_per_epoch = len(before.train_rows) / training.batch_size
    # Several processes step together or not at all: what is left of an epoch is too little for one of them.
    steps_per_epoch = math.ceil(steps_per_epoch) if processes == 1 else math.floor(steps_per_epoch)
    if not steps_per_epoch:
        raise RecipeError(
            f"{len(before.train_rows)} training rows make no batch of {training.batch_size} for {processes} processes.",
            hint="Lower training.batch_size, or start one process.",
        )
    micro, tokens = training.micro_batch_size, training.batch_tokens
    if micro == "auto":
        micro = choose_micro_batch(training.batch_size, processes, before.tokens.longest, affordable)
    if tokens == "auto":
        tokens = choose_batch_tokens(before.tokens.longest, affordable)
    optimizer = "adamw_8bit" if device.kind == "cuda" else "adamw_torch_fused"
    plan = Plan(
        batching=Batching("prefix_tree", "the recipe sets training.batching"),
        batch_size=training.batch_size,
        processes=processes,
        steps=training.max_steps or math.ceil(steps_per_epoch * training.epochs),
        micro_batch_size=min(micro, training.batch_size // processes),
        batch_tokens=tokens,
        group_by_premise=_is_grouped(training, in_trees=training.batching != "padded"),
        gradient_checkpointing=checkpointing,
        optimizer=optimizer if training.optimizer == "auto" else training.optimizer,
    )
    plan = replace(plan, batching=(choose or _choose_batching)(before, plan))
    return replace(plan, group_by_premise=_is_grouped(training, in_trees=plan.is_tree))


def _is_grouped(training: Training, *, in_trees: bool) -> bool:
    """In trees, premises that stand together save nodes and cost no accuracy (docs/benchmarks.md); padded, nothing."""
    return in_trees if training.group_by_premise == "auto" else training.group_by_premise


def row_order(before: Preflight, plan: Plan) -> RowOrder:
    """The order of the training rows in each epoch."""
    premises = [example.premise for example in before.splits.train]
    return RowOrder(premises, seed=before.recipe.seed, together=plan.group_by_premise)


def first_batches(before: Preflight, plan: Plan, count: int) -> list[list[Row]]:
    """The rows of the first steps of one process, as a collator takes them."""
    order, size = list(row_order(before, plan)), plan.batch_size // plan.processes
    starts = range(0, min(len(order), count * size), size)
    return [[training_row(before.train_rows[i]) for i in order[start : start + size]] for start in starts]


def largest_batches(before: Preflight, plan: Plan, count: int) -> list[list[Row]]:
    """Of the first epoch's steps those that may need most memory, in the form of `first_batches`.

    In trees the steps with most tokens, shared or not; padded, those with the longest rows.
    """
    order, size = np.array(list(row_order(before, plan))), plan.batch_size // plan.processes
    order = order[: len(order) // size * size][: plan.steps * size].reshape(-1, size)
    lengths = np.array([len(row) for row in before.train_rows])[order]
    heavy = np.argsort(-(lengths.sum(1) if plan.is_tree else lengths.max(1)), kind="stable")[:count]
    return [[training_row(before.train_rows[i]) for i in order[step]] for step in heavy]


def _choose_batching(before: Preflight, plan: Plan) -> Batching:
    wanted, loss_on = before.recipe.training.batching, before.recipe.training.loss_on
    batches = first_batches(before, plan, _MEASURED_STEPS)
    padded = _tokens_read(PaddedCollator(plan.micro_batch_size, loss_on), batches)
    nodes = _tokens_read(TreeCollator(plan.batch_tokens, loss_on), batches)
    ratio = round(padded / nodes, 3)
    measured = f"{padded / len(batches):,.0f} padded tokens of a step are {nodes / len(batches):,.0f} nodes"
    if wanted != "auto":
        return Batching(wanted, f"the recipe sets training.batching; {measured}, a ratio of {ratio:.2f}", ratio)
    if ratio >= _PAYS_FROM:
        return Batching("prefix_tree", f"{measured}, a ratio of {ratio:.2f}", ratio)
    return Batching(
        "padded", f"{measured}: a ratio of {ratio:.2f} is below {_PAYS_FROM}, so a tree does not pay", ratio
    )


def _tokens_read(collate: Collator, batches: list[list[Row]]) -> int:
    return sum(part["input_ids"].numel() for rows in batches for part in collate(rows)["parts"])


def _affordable_tokens(before: Preflight, device: Device, checkpointing: bool) -> int:
    """Tokens whose activations fit into half of the memory beside the weights."""
    recipe, item = before.recipe, device.item(before)
    per_token = activation_bytes_per_token(
        ModelShape.of(model_config(before.folder)),
        recipe.lora,
        item=item,
        checkpointing=checkpointing,
        trained_share=1.0 if recipe.training.loss_on == "full_text" else _ANSWER_SHARE,
    )
    weights = before.parameters.base_bytes(item, load_in_4bit=recipe.model.load_in_4bit)
    return max(0, device.memory - weights) // 2 // per_token
