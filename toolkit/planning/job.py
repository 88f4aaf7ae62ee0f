"""A training job: a checked recipe, and how the rows of each optimizer step go through the model."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from toolkit.batching.collators import LossOn, PaddedCollator, Row, TreeCollator, training_row
from toolkit.batching.sampling import RowOrder
from toolkit.errors import RunError
from toolkit.planning.device import Device
from toolkit.planning.preflight import Preflight
from toolkit.recipe.schema import Recipe, Training

Collator = Callable[[list[Row]], dict[str, Any]]


@dataclass(frozen=True)
class Verification:
    """Relative differences of loss and gradient between one tree and the same rows padded.

    None where they are no numbers; `error` is what the tree's forward or backward pass raised, if it did.
    """

    loss_difference: float | None
    gradient_difference: float | None
    tolerance: float
    error: str | None = None

    @property
    def passed(self) -> bool:
        """Whether both are numbers within the tolerance."""
        differences = (self.loss_difference, self.gradient_difference)
        return all(difference is not None and difference <= self.tolerance for difference in differences)

    def __str__(self) -> str:
        if self.error:
            return f"a tree cannot be computed: {self.error}"
        loss, gradient = (
            "no number" if difference is None else f"{difference:.1e}"
            for difference in (self.loss_difference, self.gradient_difference)
        )
        return (
            f"loss and gradient of a tree differ from those of padded rows by {loss} and {gradient}; rounding explains "
            f"{self.tolerance:g}"
        )


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
        order = "premises together" if self.group_by_premise else "shuffled"
        size = f"at most {self.batch_tokens:,} nodes" if self.is_tree else f"{self.micro_batch_size} rows"
        return (
            f"{self.batching.name}: {self.batching.reason}\n"
            f"            {self.batch_size} rows per step, {order}, processes: {self.processes}, {size} per forward "
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

    def with_verification(self, verification: Verification, training: Training) -> "Plan":
        """Return the plan after its trees were checked: with padded rows where trees would train something else."""
        batching = replace(self.batching, verification=verification)
        if verification.passed:
            return replace(self, batching=batching)
        return replace(
            self,
            batching=replace(batching, name="padded", reason=f"tree batches were refused: {verification}"),
            group_by_premise=choose_grouping(training, in_trees=False),
        )

    def as_recorded(self, record: Mapping[str, Any]) -> "Plan":
        """Return the plan with what `auto` made of memory and rows when the run of this run.json was started.

        Raises:
            RunError: run.json holds no such plan.
        """
        if not record:
            return self
        recorded_fields: dict[str, Any] = {}
        try:
            recorded_verification = record["batching"]["verification"]
            verification = Verification(**recorded_verification) if recorded_verification else None
            batching = Batching(**{**record["batching"], "verification": verification})
            for name, value_type in (("micro_batch_size", int), ("batch_tokens", int), ("group_by_premise", bool)):
                recorded_fields[name] = record[name]
                if type(record[name]) is not value_type:
                    raise TypeError
        except (KeyError, TypeError) as error:
            raise RunError(
                "The plan of steps in run.json is damaged, or another version of this toolkit wrote it.",
                hint="Put run.json back from a copy, or start anew with overwrite=True or output_dir.",
            ) from error
        return replace(self, batching=batching, **recorded_fields)


def choose_grouping(training: Training, *, in_trees: bool) -> bool:
    """Return whether the rows of a premise are grouped.

    In trees, grouped premises save nodes and cost no accuracy (docs/benchmarks.md); in padded batches they gain
    nothing.
    """
    return in_trees if training.group_by_premise == "auto" else training.group_by_premise


@dataclass(frozen=True)
class TrainingJob:
    """What `training/` executes.

    Args:
        preflight: the checked recipe and its rows.
        plan: one optimizer step, resolved for `device`.
        device: where the job is to run.
    """

    preflight: Preflight[Any]
    plan: Plan
    device: Device

    @property
    def recipe(self) -> Recipe:
        """The recipe."""
        return self.preflight.recipe

    def with_plan(self, plan: Plan) -> "TrainingJob":
        """Return the job with another plan."""
        return replace(self, plan=plan)

    def with_verification(self, verification: Verification) -> "TrainingJob":
        """Return the job after its trees were checked, see `Plan.with_verification`."""
        return self.with_plan(self.plan.with_verification(verification, self.recipe.training))

    @property
    def rows_per_process(self) -> int:
        """Rows that one process reads for one optimizer step."""
        return self.plan.batch_size // self.plan.processes

    def collator(self) -> Collator:
        """Return what makes a step's tensors of its rows."""
        return self.plan.collator(self.recipe.training.loss_on)

    def row_order(self) -> RowOrder:
        """Return the order of the training rows in each epoch."""
        premises = [example.premise for example in self.preflight.splits.train]
        return RowOrder(premises, seed=self.recipe.seed, grouping=self.plan.group_by_premise)

    def first_batches(self, count: int) -> list[list[Row]]:
        """Return the rows of the first steps of one process, as a collator takes them."""
        order, size = list(self.row_order()), self.rows_per_process
        starts = range(0, min(len(order), count * size), size)
        return [[self._row(i) for i in order[start : start + size]] for start in starts]

    def largest_batches(self, count: int) -> list[list[Row]]:
        """Return the first epoch's steps that may need most memory, in the form of `first_batches`.

        In trees these are the steps with most tokens, shared or not; in padded batches, those with the longest rows.
        """
        order, size = np.array(list(self.row_order())), self.rows_per_process
        order = order[: len(order) // size * size][: self.plan.steps * size].reshape(-1, size)
        lengths = np.array([len(row) for row in self.preflight.train_rows])[order]
        largest = np.argsort(-(lengths.sum(1) if self.plan.is_tree else lengths.max(1)), kind="stable")[:count]
        return [[self._row(i) for i in order[step]] for step in largest]

    def _row(self, index: int) -> Row:
        return training_row(self.preflight.train_rows[index])
