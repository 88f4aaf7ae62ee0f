"""Scores the label trie with a torch model: many rows and all their labels as one prefix tree per forward pass."""

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from toolkit.batching.collators import tree_inputs
from toolkit.batching.prefix_tree import Branch, build_tree, common_prefix_length, split_by_nodes
from toolkit.errors import first_line
from toolkit.inference.checks import scoring_errors
from toolkit.inference.label_trie import LabelTrie
from toolkit.models.attention import accept_trees, limit_sequence_length, model_mask, unwrap_peft
from toolkit.utils.progress import progress_bar

logger = logging.getLogger(__name__)

_CHECKED_ROWS = 2
_TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 0.5, torch.float16: 0.1}
"""How far rounding moves a log-probability; a wrong mask moves it by whole units."""


class TorchScorer:
    """Log-probabilities of a trie's edges under a causal language model.

    The labels' sequences hang below each row's prompt, and whatever the rows of a tree have in common is computed once;
    on a CPU, what all rows begin with (the instruction) is computed once for all trees, its keys and values kept. The
    head is applied at the predicting nodes alone, to hidden states, so that no backend's shortcuts with logits
    (unslothai/unsloth#3126) can reach a score. Before the first tree its first rows are scored one sequence at a time;
    where a tree says something else, so are all rows.

    Args:
        model: a causal language model, or one with an adapter, in evaluation mode.
        trie: the labels.
        batch_tokens: nodes per forward pass, beside what all rows begin with; changes speed and memory alone.
    """

    def __init__(self, model: Any, trie: LabelTrie, *, batch_tokens: int) -> None:
        self._base = unwrap_peft(model)
        self._head = self._base.get_output_embeddings()
        self._device = self._head.weight.device
        self._batch_tokens = batch_tokens
        self._edges = len(trie.edges)
        self._cache: Any = None
        self._prefix_length = 0
        self._is_tree_verified: bool | None = None
        self._contexts = trie.contexts
        self._leaf_contexts = [
            context
            for context in trie.contexts
            if not any(other != context and other[: len(context)] == context for other in trie.contexts)
        ]
        # Where a context's node lies: on the branch to the first of the deepest contexts that goes through it.
        self._context_positions = [
            (next(i for i, leaf in enumerate(self._leaf_contexts) if leaf[: len(context)] == context), len(context))
            for context in self._contexts
        ]
        context_index = {context: i for i, context in enumerate(self._contexts)}
        self._edge_contexts = torch.tensor([context_index[edge.path] for edge in trie.edges], device=self._device)
        self._edge_tokens = torch.tensor([edge.token for edge in trie.edges], device=self._device)

    def score(self, prompts: Sequence[Sequence[int]]) -> np.ndarray:
        """Score rows.

        Args:
            prompts: token ids of each row up to the answer.

        Returns:
            [rows, edges] natural logarithms under the full vocabulary, float64, in the order of the rows.
        """
        accept_trees(self._base)  # at each call: between two of them the model may have written free answers
        scores = np.full((len(prompts), self._edges), np.nan)
        self._cache_prefix(prompts)
        suffixes = [prompt[self._prefix_length :] for prompt in prompts]
        batches = split_by_nodes(suffixes, [len(self._contexts)] * len(prompts), self._batch_tokens)
        with progress_bar(total=len(prompts), desc="scoring", unit="row") as bar:
            for rows in batches:
                batch = [prompts[row] for row in rows]
                if self._is_tree_verified is None:
                    self._is_tree_verified = self._verify_tree(batch[:_CHECKED_ROWS])
                scores[rows] = (
                    self._score_tree(batch)
                    if self._is_tree_verified
                    else [self._score_separately(prompt) for prompt in batch]
                )
                bar.update(len(rows))
        return scores

    @torch.inference_mode()
    def _cache_prefix(self, prompts: Sequence[Sequence[int]]) -> None:
        """Keep keys and values of what all prompts begin with; their last tokens stay their own."""
        self._cache, self._prefix_length = None, 0
        if self._device.type != "cpu":  # Unsloth's fused forward keeps them in a form of its own, and trees are large
            return
        self._prefix_length = min(common_prefix_length(prompts), min(map(len, prompts)) - 1)
        if self._prefix_length:
            prefix = torch.tensor([prompts[0][: self._prefix_length]])
            self._cache = self._base.get_decoder()(input_ids=prefix, use_cache=True).past_key_values

    def _verify_tree(self, prompts: Sequence[Sequence[int]]) -> bool:
        # The branch that comes last below its row: with a wrong mask it would see its siblings.
        last_leaf = max(range(len(self._leaf_contexts)), key=self._leaf_contexts.__getitem__)
        longest = len(prompts[-1]) + len(self._leaf_contexts[last_leaf])
        try:
            with scoring_errors(), limit_sequence_length(self._base, longest):
                scores = self._score_tree(prompts)[-1]
        except (RuntimeError, ValueError, IndexError) as error:  # however a backend refuses a mask of its own
            return self._reject_tree(f"cannot be computed ({first_line(error)})")
        expected = self._score_separately(prompts[-1], [last_leaf])
        is_finite = np.isfinite(expected)  # scores that are no numbers anyway are told of by the caller
        difference = np.abs(scores - expected)[is_finite].max(initial=0)
        tolerance = _TOLERANCE.get(self._head.weight.dtype, 1e-3)
        if difference <= tolerance:
            return True
        return self._reject_tree(
            f"scores {difference:.1e} nats from the same row alone; rounding explains {tolerance:g}"
        )

    @staticmethod
    def _reject_tree(reason: str) -> bool:
        logger.warning("WARNING: a prefix tree %s. Each sequence is scored by itself, which is slower.", reason)
        return False

    def _score_tree(self, prompts: Sequence[Sequence[int]]) -> np.ndarray:
        tree = build_tree(
            [
                Branch([*prompt[self._prefix_length :], *leaf], len(prompt) - 1 - self._prefix_length, row)
                for row, prompt in enumerate(prompts)
                for leaf in self._leaf_contexts
            ]
        )
        nodes = [
            tree.paths[row * len(self._leaf_contexts) + branch][len(prompt) - 1 - self._prefix_length + depth]
            for row, prompt in enumerate(prompts)
            for branch, depth in self._context_positions
        ]
        inputs = tree_inputs(tree)
        if self._cache is not None:
            inputs["position_ids"] = inputs["position_ids"] + self._prefix_length
            # Every node sees all of the beginning.
            inputs["attention_mask"] = torch.nn.functional.pad(
                inputs["attention_mask"], (self._prefix_length, 0), value=True
            )
        hidden = self._hidden(**inputs, past_key_values=self._cache)
        if self._cache is not None:
            self._cache.crop(self._prefix_length)
        return self._edge_log_probs(hidden[nodes])

    def _score_separately(self, prompt: Sequence[int], branches: Sequence[int] | None = None) -> np.ndarray:
        """[edges], each branch read by itself, with plain causal attention; NaN for edges of branches not asked for."""
        indices = range(len(self._leaf_contexts)) if branches is None else branches
        hidden = {i: self._hidden(input_ids=torch.tensor([[*prompt, *self._leaf_contexts[i]]])) for i in indices}
        missing = torch.full_like(next(iter(hidden.values()))[0], float("nan"))
        states = [
            hidden[branch][len(prompt) - 1 + depth] if branch in hidden else missing
            for branch, depth in self._context_positions
        ]
        return self._edge_log_probs(torch.stack(states))[0]

    @torch.inference_mode()
    def _hidden(self, past_key_values: Any = None, **inputs: torch.Tensor) -> torch.Tensor:
        """[tokens, hidden] of a batch of one."""
        inputs = {name: tensor.to(self._device) for name, tensor in inputs.items()}
        if "attention_mask" in inputs:
            inputs["attention_mask"] = model_mask(inputs["attention_mask"], self._head.weight.dtype)
        decoder = self._base.get_decoder()
        return decoder(**inputs, past_key_values=past_key_values, use_cache=False).last_hidden_state[0]

    @torch.inference_mode()
    def _edge_log_probs(self, hidden: torch.Tensor) -> np.ndarray:
        """[rows, edges] from [rows x contexts, hidden]."""
        log_probs = self._head(hidden).float().log_softmax(dim=-1).unflatten(0, (-1, len(self._contexts)))
        return log_probs[:, self._edge_contexts, self._edge_tokens].double().cpu().numpy()
