"""The number of steps between two validations, so that they take at most 5% of the training time."""

import math
from collections.abc import Sequence

import numpy as np

from toolkit.batching.prefix_tree import common_prefix_length, split_by_nodes
from toolkit.batching.sampling import batch_by_length
from toolkit.inference.label_trie import LabelTrie
from toolkit.inference.loading import scoring_batch_tokens
from toolkit.models.attention import find_tree_problem
from toolkit.planning.job import TrainingJob
from toolkit.prompts.sentence_pairs import PairTokenizer

_MAX_SHARE = 0.04
"""The largest share of the training time, estimated from token counts. On a CPU, the measured share was 0.5 to 0.7
times the estimate (docs/training.md). The margin up to 5% is for other devices, on which building trees can take longer
than scoring."""
_MAX_VALIDATIONS = 50
"""More would only add noise to the choice of the best step, and write a checkpoint for each improvement."""
_COUNTED_STEPS = 32
_COUNTED_ROWS = 2_000
"""The number of dev rows whose trees are counted, to plan in less than a second."""
_CHECKED_ROWS = 4
"""Rows that each validation computes to check its trees: two in a tree, and the same ones separately."""


def plan_validation(job: TrainingJob) -> tuple[int | None, str]:
    """Resolve training.eval_steps.

    Args:
        job: The job, with the batching that it trains with.

    Returns:
        The number of steps between two validations, None for no validation, and the reason, which is printed and
        recorded. After the last step there is always a validation.
    """
    training, rows, steps = job.recipe.training, len(job.preflight.dev_rows), job.plan.steps
    if not rows or training.eval_steps is None:
        return None, ""
    training_cost, validation_cost = steps * _step_cost(job), _scoring_cost(job)
    if training.eval_steps == "auto":
        affordable = min(_MAX_VALIDATIONS, math.floor(_MAX_SHARE * training_cost / validation_cost))
        eval_steps, reason = math.ceil(steps / max(1, affordable)), ""
    else:
        eval_steps, reason = training.eval_steps, "the recipe sets training.eval_steps; "
    share = math.ceil(steps / eval_steps) * validation_cost / training_cost
    reason += f"{rows:,} dev rows take about {share:.1%} of the training time, estimated from token counts"
    if training.eval_steps == "auto" and eval_steps == steps > 1:
        smaller = "data.dev.limit" if job.recipe.data.dev is not None else "a smaller data.dev_share"
        reason += f"; {smaller} allows more frequent validation"
    return eval_steps, reason


def _step_cost(job: TrainingJob) -> float:
    """Return the mean cost of an optimizer step in one process, in multiplications.

    The forward pass counts as one pass. Each of these adds another: the gradients of the activations, the gradients of
    the weights if all of them are trained, and the second forward pass of gradient checkpointing.
    """
    plan = job.plan
    passes = 2 + plan.gradient_checkpointing + (job.recipe.lora is None)
    if job.recipe.model.kind == "encoder":
        order, size = list(job.row_order())[: _COUNTED_STEPS * job.rows_per_process], plan.micro_batch_size
        lengths = [len(job.preflight.train_rows[i]) for i in order]
        batches = [lengths[start : start + size] for start in range(0, len(lengths), size)]
        return passes * sum(len(batch) * max(batch) for batch in batches) / len(lengths) * job.rows_per_process
    collate = job.collator()
    counted = job.first_batches(_COUNTED_STEPS)
    micro_batches = [micro_batch for rows in counted for micro_batch in collate(rows)["micro_batches"]]
    tokens = sum(micro_batch["input_ids"].numel() for micro_batch in micro_batches)
    predictions = sum(len(micro_batch["nodes"]) for micro_batch in micro_batches)
    layers, head = _count_weights(job)
    return (passes * tokens * layers + 2 * predictions * head) / len(counted)


def _scoring_cost(job: TrainingJob) -> float:
    """Return the cost of scoring all dev rows, in multiplications."""
    rows, tokenizer = job.preflight.dev_rows, job.preflight.row_tokenizer
    batch_tokens, longest = scoring_batch_tokens(job.recipe, job.device.kind), max(map(len, rows))
    if isinstance(tokenizer, PairTokenizer):
        lengths = [len(row) for row in rows]
        return sum(len(batch) * lengths[batch[0]] for batch in batch_by_length(lengths, batch_tokens))
    trie, (layers, head) = LabelTrie(tokenizer.label_ids), _count_weights(job)
    prompts = [row.prompt for row in rows[:_COUNTED_ROWS]]
    scale = len(rows) / len(prompts)
    predictions = len(rows) * len(trie.contexts) * head
    if find_tree_problem(job.preflight.config) is not None:
        leaves = {ids[:-1] for ids in trie.sequences.values()}
        return predictions + layers * scale * sum(len(prompt) + len(leaf) for prompt in prompts for leaf in leaves)
    # On a CPU, the common prefix is computed once; see `TorchScorer`.
    prefix = min(common_prefix_length(prompts), min(map(len, prompts)) - 1) if job.device.kind == "cpu" else 0
    nodes = _count_nodes([prompt[prefix:] for prompt in prompts], len(trie.contexts), batch_tokens)
    return predictions + layers * (scale * nodes + prefix + _CHECKED_ROWS * longest)


def _count_nodes(prompts: Sequence[Sequence[int]], contexts: int, batch_tokens: int) -> int:
    """Return the number of nodes of the trees in which rows are scored, see `split_by_nodes`."""
    nodes = len(prompts) * contexts
    for rows in split_by_nodes(prompts, [contexts] * len(prompts), batch_tokens):
        previous = np.empty(0, np.int64)
        for row in rows:
            shared = np.array(prompts[row][:-1], np.int64)
            length = min(len(previous), len(shared))
            differing = np.flatnonzero(previous[:length] != shared[:length])
            nodes += len(shared) - int(differing[0] if len(differing) else length)
            previous = shared
    return nodes


def _count_weights(job: TrainingJob) -> tuple[int, int]:
    """Return the number of weights that are multiplied for each token, and for each prediction."""
    parameters, config = job.preflight.parameters, job.preflight.config
    return parameters.quantizable, config.vocab_size * config.hidden_size


def validation_warnings(job: TrainingJob) -> list[str]:
    """Return a warning for each key that has no effect because there are too few validations."""
    training, eval_steps = job.recipe.training, job.plan.eval_steps
    if eval_steps is None:
        return []
    patience, validations = training.early_stopping_patience, math.ceil(job.plan.steps / eval_steps)
    warnings = []
    if training.keep == "best" and validations == 1:
        warnings.append(
            "WARNING     training.keep: best has no effect: the run has a single validation, after the last step. "
            "Lower training.eval_steps, or use fewer dev rows."
        )
    if patience is not None and validations <= patience + 1:
        warnings.append(
            f"WARNING     training.early_stopping_patience {patience} has no effect: the run has too few validations "
            f"({validations:,}). Lower training.early_stopping_patience or training.eval_steps."
        )
    return warnings
