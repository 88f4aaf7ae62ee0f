"""The training job: a checked recipe and the plan for passing the rows of each optimizer step through the model."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any, get_args

import numpy as np

from toolkit.batching.collators import PaddedCollator, Row, TreeAttention, TreeCollator, to_training_row
from toolkit.batching.label_targets import LabelTargets
from toolkit.batching.sampling import LENGTH_MULTIPLES, RowOrder, row_length_multiple
from toolkit.data.target_weights import target_weights
from toolkit.errors import RunError
from toolkit.planning.batching import Batching, Verification
from toolkit.planning.device import Device
from toolkit.planning.preflight import Preflight
from toolkit.prompts.sentence_pairs import PairTokenizer
from toolkit.recipe.schema import Recipe

Collator = Callable[[list[Row]], dict[str, Any]]


@dataclass(frozen=True)
class Plan:
    """The settings of an optimizer step, with every `auto` resolved for a device.

    Args:
        batching: The form in which rows are collated into tensors.
        batch_size: Rows per optimizer step, over all processes.
        processes: The number of processes that share a batch.
        steps: Optimizer steps of the run.
        micro_batch_size: Rows per forward pass in padded batches.
        batch_tokens: Nodes per forward pass in prefix trees.
        group_by: The inputs whose text adjacent rows share. Empty if rows are shuffled.
        gradient_checkpointing: Whether the backward pass recomputes activations.
        optimizer: The name of the optimizer in transformers.
        tree_attention: The attention over prefix trees: dense if attention split at the root fails the verification.
        dense_nodes: The largest tree, in nodes, that gets dense attention whatever `tree_attention` is.
        eval_steps: The steps between two validations. None for no validation.
        eval_reason: The reason for that number, which is printed and recorded.
    """

    batching: Batching
    batch_size: int
    processes: int
    steps: int
    micro_batch_size: int
    batch_tokens: int
    group_by: tuple[str, ...]
    gradient_checkpointing: bool
    optimizer: str
    tree_attention: TreeAttention = "split"
    dense_nodes: int = 0
    eval_steps: int | None = None
    eval_reason: str = ""

    def __str__(self) -> str:
        order = f"grouped by {' and '.join(self.group_by)}" if self.group_by else "shuffled"
        size = f"at most {self.batch_tokens:,} nodes" if self.is_tree else f"{self.micro_batch_size} rows"
        return (
            f"{self.batching.name}: {self.batching.reason}\n"
            f"            {self.batch_size} rows per step, {order}, processes: {self.processes}, {size} per forward "
            f"pass; {self.steps:,} steps with {self.optimizer}{self._validation_line()}"
        )

    def _validation_line(self) -> str:
        if self.eval_steps is None:
            return ""
        is_once = self.eval_steps >= self.steps
        times = "once, after the last step" if is_once else f"every {self.eval_steps:,} steps and after the last one"
        return f"\nvalidation  {times}: {self.eval_reason}"

    @property
    def is_tree(self) -> bool:
        """True if rows are merged into prefix trees."""
        return self.batching.name == "prefix_tree"

    def collator(
        self, recipe: Recipe, device_and_dtype_bytes: tuple[str, int], labels: LabelTargets | None = None
    ) -> Collator:
        """Return the collator, which turns the rows of an optimizer step into tensors.

        Args:
            recipe: The recipe, which names the tokens to train on.
            device_and_dtype_bytes: See `TrainingJob.device_and_dtype_bytes`.
            labels: The labels, if rows have weights for them.
        """
        loss_on = recipe.training.loss_on
        if self.is_tree:
            multiple = LENGTH_MULTIPLES[device_and_dtype_bytes]
            return TreeCollator(self.batch_tokens, loss_on, multiple, self.tree_attention, self.dense_nodes, labels)
        multiple = row_length_multiple(*device_and_dtype_bytes, recipe.model.max_seq_length)
        return PaddedCollator(self.micro_batch_size, loss_on, labels, multiple)

    @property
    def allowed_attentions(self) -> tuple[TreeAttention, ...]:
        """The kinds of attention over prefix trees to verify, the preferred one first."""
        return ("split", "dense") if self.tree_attention == "split" else ("dense",)

    def with_verification(self, verification: Verification, attention: TreeAttention, recipe: Recipe) -> "Plan":
        """Return the plan with the result of the last verification, and with padded rows if it did not pass."""
        batching = replace(self.batching, verification=verification)
        if verification.passed:
            return replace(self, batching=batching, tree_attention=attention)
        return replace(
            self,
            batching=replace(batching, name="padded", reason=f"prefix trees failed the verification: {verification}"),
            group_by=choose_grouping(recipe, uses_trees=False),
        )

    def record(self, recipe: Recipe) -> dict[str, Any]:
        """Return the plan for run.json."""
        fields = asdict(self) | {"group_by": list(self.group_by)}
        if "premise" in recipe.task.inputs:  # the only key in runs of earlier versions, which other programs may read
            fields["group_by_premise"] = "premise" in self.group_by
        return fields

    def as_recorded(self, record: Mapping[str, Any], recipe: Recipe) -> "Plan":
        """Return the plan with the values recorded in run.json.

        A run that resumes on a machine with another memory size must not resolve `auto` to other values.

        Raises:
            RunError: If the recorded plan is damaged.
        """
        if not record:
            return self
        recorded_fields: dict[str, Any] = {}
        try:
            recorded_verification = record["batching"]["verification"]
            verification = Verification(**recorded_verification) if recorded_verification else None
            batching = Batching(**{**record["batching"], "verification": verification})
            for name in ("micro_batch_size", "batch_tokens"):
                recorded_fields[name] = record[name]
                if type(record[name]) is not int:  # not isinstance, because a bool is an instance of int
                    raise TypeError
            group_by = record["group_by"] if "group_by" in record else ["premise"] * record["group_by_premise"]
            if not set(group_by) <= set(recipe.task.inputs):
                raise ValueError
            recorded_fields["group_by"] = tuple(group_by)
            # Runs of earlier versions used dense attention and resume with it.
            recorded_fields["tree_attention"] = record.get("tree_attention", "dense")
            recorded_fields["dense_nodes"] = record.get("dense_nodes", 0)
            if recorded_fields["tree_attention"] not in get_args(TreeAttention):
                raise ValueError
            if type(recorded_fields["dense_nodes"]) is not int:
                raise TypeError
            if recipe.training.gradient_checkpointing == "auto":
                if type(record["gradient_checkpointing"]) is not bool:
                    raise TypeError
                recorded_fields["gradient_checkpointing"] = record["gradient_checkpointing"]
            if recipe.training.eval_steps == "auto" and record.get("eval_steps") is not None:
                if type(record["eval_steps"]) is not int or record["eval_steps"] < 1:
                    raise TypeError
                recorded_fields["eval_steps"] = record["eval_steps"]
                recorded_fields["eval_reason"] = str(record["eval_reason"])
        except (KeyError, TypeError, ValueError) as error:
            raise RunError(
                "The training plan in run.json is damaged or was written by another version of this toolkit.",
                hint="Restore run.json from a copy, or start a new run with overwrite=True or output_dir.",
            ) from error
        return replace(self, batching=batching, **recorded_fields)


def choose_grouping(recipe: Recipe, *, uses_trees: bool) -> tuple[str, ...]:
    """Return the inputs by which rows are grouped, so that rows with the same texts are adjacent; none to shuffle rows.

    In prefix trees, grouping saves nodes and does not reduce accuracy (docs/benchmarks.md). In padded batches it has no
    benefit.
    """
    if recipe.training.group_by == "auto":
        return recipe.task.inputs[:1] if uses_trees else ()
    return recipe.training.group_by_inputs


@dataclass(frozen=True)
class TrainingJob:
    """The job that `training/` executes.

    Args:
        preflight: The checked recipe and its rows.
        plan: The settings of an optimizer step.
        device: The device that the plan was made for.
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

    def with_verification(self, verification: Verification, attention: TreeAttention) -> "TrainingJob":
        """Return the job with the result of the last verification, see `Plan.with_verification`."""
        return self.with_plan(self.plan.with_verification(verification, attention, self.recipe))

    @property
    def rows_per_process(self) -> int:
        """Rows per optimizer step in each process."""
        return self.plan.batch_size // self.plan.processes

    def collator(self) -> Collator:
        """Return the collator, which turns the rows of an optimizer step into tensors."""
        return self.plan.collator(self.recipe, self.device_and_dtype_bytes, self.label_targets)

    @property
    def device_and_dtype_bytes(self) -> tuple[str, int]:
        """The device, cpu or cuda, and the bytes per element of the data type that the model computes in."""
        return self.device.kind, self.preflight.precision.dtype.itemsize

    @cached_property
    def label_weights(self) -> list[list[float]] | None:
        """The weight of each label in the loss of each training row. None if each row has only an answer of weight 1.

        Comparing labels needs weights in any case.
        """
        weights = target_weights(self.recipe, self.preflight.splits.train, always=self._compares_labels)
        return None if weights is None else weights.tolist()

    @property
    def _compares_labels(self) -> bool:
        return self.recipe.training.objective == "labels"

    @property
    def label_targets(self) -> LabelTargets | None:
        """The sequences of the labels, if training rows have weights for them. None for an encoder."""
        row_tokenizer = self.preflight.row_tokenizer
        if self.label_weights is None or isinstance(row_tokenizer, PairTokenizer):
            return None
        sequences = tuple(map(tuple, row_tokenizer.label_ids.values()))
        return LabelTargets(sequences, self.recipe.training.objective)

    def row_order(self) -> RowOrder:
        """Return the order of the training rows in each epoch."""
        group_by = self.plan.group_by
        # A single text is not put into a tuple: the order of the groups depends on how they are sorted.
        groups = [
            example.inputs[group_by[0]] if len(group_by) == 1 else tuple(example.inputs[name] for name in group_by)
            for example in self.preflight.splits.train
        ]
        return RowOrder(groups, seed=self.recipe.seed, grouping=bool(group_by))

    def first_batches(self, count: int) -> list[list[Row]]:
        """Return the rows of the first steps of one process, in the form that collators expect."""
        order, size = list(self.row_order()), self.rows_per_process
        starts = range(0, min(len(order), count * size), size)
        return [[self.training_row(i) for i in order[start : start + size]] for start in starts]

    def largest_batches(self, count: int) -> list[list[Row]]:
        """Return the steps of the first epoch that may need the most memory, in the form of `first_batches`.

        For prefix trees, these are the steps with the most tokens before prefixes are merged. For padded batches, they
        are the steps with the longest rows.
        """
        order, size = np.array(list(self.row_order())), self.rows_per_process
        # Without the incomplete last batch, and without steps that the run does not reach.
        order = order[: len(order) // size * size][: self.plan.steps * size].reshape(-1, size)
        lengths = np.array([len(row) for row in self.preflight.train_rows])[order]
        largest = np.argsort(-(lengths.sum(1) if self.plan.is_tree else lengths.max(1)), kind="stable")[:count]
        return [[self.training_row(i) for i in order[step]] for step in largest]

    def training_rows(self) -> list[Row]:
        """Return all training rows, see `training_row`."""
        return [self.training_row(i) for i in range(len(self.preflight.train_rows))]

    def training_row(self, index: int) -> Row:
        """Return a training row of a decoder in the form that collators expect."""
        weights = self.label_weights
        return to_training_row(self.preflight.train_rows[index], weights[index] if weights else None)
