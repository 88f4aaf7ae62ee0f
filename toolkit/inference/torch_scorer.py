"""A label scorer for torch models that processes many rows and all their labels in one prefix tree."""

import logging
from collections.abc import Sequence
from typing import Any, get_args

import numpy as np
import torch

from toolkit.batching.collators import TreeAttention, tree_inputs
from toolkit.batching.prefix_tree import Branch, build_tree, common_prefix_length, split_by_nodes
from toolkit.batching.sampling import HOPPER_DENSE_NODES, LENGTH_MULTIPLES
from toolkit.errors import ModelError, first_line
from toolkit.inference.checks import scoring_errors
from toolkit.inference.label_trie import LabelTrie
from toolkit.models.attention import find_tree_problem, sliding_window, unwrap_peft
from toolkit.models.backend import has_compute_capability
from toolkit.models.logits import finish_logits
from toolkit.models.tree_attention import MASK_ERRORS, accept_trees, limit_sequence_length
from toolkit.models.tree_layout import model_inputs
from toolkit.utils.progress import progress_bar

logger = logging.getLogger(__name__)

_CHECKED_ROWS = 2
"""The rows in the verified tree. With two, a wrong mask lets the second attend to the first."""
_TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 0.5, torch.float16: 0.1}
"""The difference in nats that rounding can cause. A wrong mask changes log-probabilities by whole units."""


class TorchScorer:
    """A scorer that returns the log-probabilities of a trie's edges under a causal language model.

    The label sequences are branches below each row's prompt, and common prefixes of the rows in a tree are computed
    once. On a CPU, the prefix of all rows (the instruction) is computed once for all trees, and its keys and values
    are cached.

    The language-model head is applied to the hidden states of the predicting nodes only. The model's own logits, which
    some backends leave empty (unslothai/unsloth#3126), are never used.

    Before the first tree is used, scores of the longest row and a similar one in a tree are compared with those of the
    same rows scored separately, and again before the first rows that are longer than the model's sliding window. If
    they differ, dense attention is tried, and if its scores differ as well, all rows are scored separately.

    Args:
        model: A causal language model, with or without an adapter, in evaluation mode.
        trie: The labels.
        batch_tokens: The nodes per forward pass, in addition to the common prefix. This affects only speed and memory.
    """

    def __init__(self, model: Any, trie: LabelTrie, *, batch_tokens: int) -> None:
        self._base = unwrap_peft(model)
        self._head = self._base.get_output_embeddings()
        self._device = self._head.weight.device
        self._batch_tokens = batch_tokens
        self.length_multiple = LENGTH_MULTIPLES[self._device.type, self._head.weight.dtype.itemsize]
        self._edges = len(trie.edges)
        self._cache: Any = None
        self._prefix_length = 0
        # The attention to use, by whether rows are longer than the sliding window. None if trees cannot be used.
        self._verified: dict[bool, TreeAttention | None] = {}
        self._contexts = trie.contexts
        # A context that is a prefix of a longer one lies on the longer one's branch. Only the others need a branch.
        self._leaf_contexts = [
            context
            for context in trie.contexts
            if not any(longer != context and longer[: len(context)] == context for longer in trie.contexts)
        ]
        # The node of each context, as a leaf context whose branch contains it and a depth below the prompt.
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
            prompts: The token ids of each row before its answer.

        Returns:
            Natural logarithms under the full vocabulary, [rows, edges], float64, in the order of the rows.

        Raises:
            ModelError: If a prompt has a token id that the model lacks.
        """
        largest, vocabulary = max(map(max, prompts)), self._base.get_input_embeddings().num_embeddings
        if largest >= vocabulary:  # on a GPU, the lookup would end the process
            raise ModelError(
                f"The tokenizer gives the token id {largest}, but the model has only {vocabulary} tokens.",
                hint="The tokenizer belongs to another model. Copy the files of the adapter again.",
            )
        accept_trees(self._base)  # in each call, because generation with the same model turns it off
        scores = np.full((len(prompts), self._edges), np.nan)
        self._cache_prefix(prompts)
        suffixes = [prompt[self._prefix_length :] for prompt in prompts]
        batches = list(split_by_nodes(suffixes, [len(self._contexts)] * len(prompts), self._batch_tokens))
        attention = self._choose_attention(prompts, batches)
        results = []
        with progress_bar(total=len(prompts), desc="scoring", unit="row") as bar:
            for rows in batches:
                batch = [prompts[row] for row in rows]
                results.append(self._score_each(batch) if attention is None else self._score_tree(batch, attention))
                bar.update(len(rows))
        # Scores are copied only now: a copy per batch would make the CPU wait for the GPU, and the GPU for the CPU.
        for rows, result in zip(batches, results, strict=True):
            scores[rows] = result.cpu().numpy()
        return scores

    @torch.no_grad()  # not inference mode, see `_hidden`
    def _cache_prefix(self, prompts: Sequence[Sequence[int]]) -> None:
        """Compute the keys and values of the longest common prefix of all prompts."""
        self._cache, self._prefix_length = None, 0
        # On a GPU, Unsloth's fused forward caches keys and values in its own format, and trees are so large that the
        # prefix is rarely repeated.
        if self._device.type != "cpu" or find_tree_problem(self._base.config) is not None:
            return
        # The last token of each prompt is left to its tree, because it predicts the first token of the labels.
        self._prefix_length = min(common_prefix_length(prompts), min(map(len, prompts)) - 1)
        if self._prefix_length:
            from toolkit.models.backend import DynamicCache

            prefix = torch.tensor([prompts[0][: self._prefix_length]])
            # Without the model's configuration, this cache keeps all keys. The one that the model would create drops
            # those outside a sliding window, and then a tree's keys could not be removed from it again.
            self._cache = DynamicCache()
            self._base.get_decoder()(input_ids=prefix, past_key_values=self._cache, use_cache=True)

    def _choose_attention(
        self, prompts: Sequence[Sequence[int]], batches: Sequence[Sequence[int]]
    ) -> TreeAttention | None:
        """Return the preferred attention with which a tree gives the scores of separate rows, or None."""
        window = sliding_window(self._base.config)
        longest = max(range(len(prompts)), key=lambda row: len(prompts[row]))
        is_limited = window is not None and len(prompts[longest]) > window
        if is_limited not in self._verified:
            problem = find_tree_problem(self._base.config)
            batch = next(batch for batch in batches if longest in batch)
            # The rows of a batch are sorted, so the row before the longest one shares a long prefix with it.
            start = max(0, batch.index(longest) + 1 - _CHECKED_ROWS)
            checked = [prompts[row] for row in batch[start : start + _CHECKED_ROWS]]
            self._verified[is_limited] = self._verify_trees(checked) if problem is None else None
            if problem is not None:
                self._warn(f"cannot be used: {problem}")
        return self._verified[is_limited]

    def _verify_trees(self, prompts: Sequence[Sequence[int]]) -> TreeAttention | None:
        """Return the first attention that passes the check, or log a warning and return None."""
        problems = []
        attentions = get_args(TreeAttention)
        if has_compute_capability(9) and self._batch_tokens <= HOPPER_DENSE_NODES:
            attentions = attentions[::-1]  # dense attention is faster for small trees on Hopper
        for attention in attentions:
            problem = self._find_problem(prompts, attention)
            if problem is None:
                return attention
            logger.info("A prefix tree with %s attention %s.", attention, problem)
            problems.append(problem)
        self._warn(problems[-1])
        return None

    def _find_problem(self, prompts: Sequence[Sequence[int]], attention: TreeAttention) -> str | None:
        """Return the reason why trees cannot be used with an attention, or None if their scores are correct."""
        # Compare the last branch of each row, which has the row's other branches before it. Without a correct mask, it
        # would attend to them.
        last_leaf = max(range(len(self._leaf_contexts)), key=self._leaf_contexts.__getitem__)
        longest = max(map(len, prompts)) + len(self._leaf_contexts[last_leaf])
        # With the limit at the length of one row, a backend that truncates long inputs already truncates this tree.
        try:
            with scoring_errors(), limit_sequence_length(self._base, longest):
                scores = self._score_tree(prompts, attention).cpu().numpy()
        except MASK_ERRORS as error:
            return f"cannot be computed ({first_line(error)})"
        expected = self._score_each(prompts, [last_leaf]).cpu().numpy()
        # NaN marks edges of other branches. If all scores are NaN, the caller reports it.
        is_finite = np.isfinite(expected)
        difference = np.abs(scores - expected)[is_finite].max(initial=0)
        tolerance = _TOLERANCE.get(self._head.weight.dtype, 1e-3)
        if difference <= tolerance:
            return None
        return f"changes scores by {difference:.1e} nats, more than the {tolerance:g} that rounding explains"

    @staticmethod
    def _warn(reason: str) -> None:
        logger.warning("WARNING: a prefix tree %s. Each sequence is scored separately, which is slower.", reason)

    def _score_tree(self, prompts: Sequence[Sequence[int]], attention: TreeAttention) -> torch.Tensor:
        tree = build_tree(
            [
                Branch([*prompt[self._prefix_length :], *leaf], len(prompt) - 1 - self._prefix_length, row)
                for row, prompt in enumerate(prompts)
                for leaf in self._leaf_contexts
            ]
        ).with_length_multiple_of(self.length_multiple)
        # The node of a context is `depth` tokens below the last token of the prompt.
        nodes = [
            tree.paths[row * len(self._leaf_contexts) + branch][len(prompt) - 1 - self._prefix_length + depth]
            for row, prompt in enumerate(prompts)
            for branch, depth in self._context_positions
        ]
        tensors = tree_inputs(tree, np.array(nodes), attention)
        micro_batch = {name: tensor.to(self._device) for name, tensor in tensors.items()}
        inputs = model_inputs(micro_batch, self._base.config, self._head.weight.dtype, self._prefix_length)
        try:
            hidden = self._hidden(**inputs, past_key_values=self._cache)
        finally:
            # All layers, or only those before one that failed, have appended the keys and values of the tree.
            for layer in self._cache.layers if self._cache is not None else ():
                layer.crop(self._prefix_length - layer.get_seq_length())
        return self._edge_log_probs(hidden[nodes])

    def _score_each(self, prompts: Sequence[Sequence[int]], branches: Sequence[int] | None = None) -> torch.Tensor:
        """Return scores, [rows, edges], with each branch in its own forward pass and the model's own attention mask.

        Args:
            prompts: The token ids of each row before its answer.
            branches: Indices of the leaf contexts to score. The edges of other branches are NaN.
        """
        indices = range(len(self._leaf_contexts)) if branches is None else branches
        rows = []
        for prompt in prompts:
            hidden = {i: self._hidden(**self._plain_inputs([*prompt, *self._leaf_contexts[i]])) for i in indices}
            missing = torch.full_like(next(iter(hidden.values()))[0], float("nan"))
            states = [
                hidden[branch][len(prompt) - 1 + depth] if branch in hidden else missing
                for branch, depth in self._context_positions
            ]
            rows.append(self._edge_log_probs(torch.stack(states)))
        return torch.cat(rows)

    def _plain_inputs(self, ids: Sequence[int]) -> dict[str, torch.Tensor]:
        inputs = {"input_ids": torch.tensor([ids], device=self._device)}
        # Without a mask, Unsloth's Mistral decoder on a GPU ignores the sliding window when it does not train.
        if sliding_window(self._base.config) is not None:
            inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
        return inputs

    @torch.no_grad()
    def _hidden(self, **inputs: Any) -> torch.Tensor:
        """Return the final hidden states of a batch of one row, [tokens, hidden]."""
        # Not inference mode: a model caches tensors, such as the sines of rotary embeddings, and the next training step
        # reuses them. Autograd cannot save a tensor that was created in inference mode.
        return self._base.get_decoder()(**inputs, use_cache=False).last_hidden_state[0]

    @torch.no_grad()
    def _edge_log_probs(self, hidden: torch.Tensor) -> torch.Tensor:
        """Convert hidden states, [rows x contexts, hidden], into log-probabilities, [rows, edges], float64."""
        logits = finish_logits(self._head(hidden), self._base.config)
        log_probs = logits.float().log_softmax(dim=-1).unflatten(0, (-1, len(self._contexts)))
        return log_probs[:, self._edge_contexts, self._edge_tokens].double()
