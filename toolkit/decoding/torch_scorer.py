"""Scores the label trie with a torch model: many rows and all their labels as one prefix tree per forward pass."""

import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from tqdm.auto import tqdm

from toolkit.batching.collators import tree_inputs
from toolkit.batching.prefix_tree import Branch, build_tree, common_length, split_by_nodes
from toolkit.decoding.label_trie import LabelTrie
from toolkit.errors import first_line
from toolkit.model.attention import accept_trees, limited_to, model_mask, without_adapter
from toolkit.out_of_memory import scoring_errors

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
        accept_trees(model)
        self._base = without_adapter(model)
        self._head = self._base.get_output_embeddings()
        self._device = self._head.weight.device
        self._batch_tokens = batch_tokens
        self._edges = len(trie.edges)
        self._cache: Any = None
        self._begun = 0
        self._trusted: bool | None = None
        self.show_progress = True
        self._contexts = trie.contexts
        self._deepest = [c for c in trie.contexts if not any(o != c and o[: len(c)] == c for o in trie.contexts)]
        # Where a context's node lies: on the branch to the first of the deepest contexts that goes through it.
        self._place = [
            (next(i for i, deepest in enumerate(self._deepest) if deepest[: len(context)] == context), len(context))
            for context in self._contexts
        ]
        number = {context: i for i, context in enumerate(self._contexts)}
        self._context_of = torch.tensor([number[edge.path] for edge in trie.edges], device=self._device)
        self._token_of = torch.tensor([edge.token for edge in trie.edges], device=self._device)

    def score(self, prompts: Sequence[Sequence[int]]) -> np.ndarray:
        """Score rows.

        Args:
            prompts: token ids of each row up to the answer.

        Returns:
            [rows, edges] natural logarithms under the full vocabulary, float64, in the order of the rows.
        """
        scores = np.full((len(prompts), self._edges), np.nan)
        self._read_beginning(prompts)
        below = [prompt[self._begun :] for prompt in prompts]
        batches = split_by_nodes(below, [len(self._contexts)] * len(prompts), self._batch_tokens)
        with tqdm(total=len(prompts), desc="scoring", unit="row", disable=not self.show_progress) as bar:
            for rows in batches:
                chosen = [prompts[row] for row in rows]
                if self._trusted is None:
                    self._trusted = self._is_trusted(chosen[:_CHECKED_ROWS])
                scores[rows] = self._score_tree(chosen) if self._trusted else [self._score_alone(p) for p in chosen]
                bar.update(len(rows))
        return scores

    @torch.inference_mode()
    def _read_beginning(self, prompts: Sequence[Sequence[int]]) -> None:
        """Keep keys and values of what all prompts begin with; their last tokens stay their own."""
        self._cache, self._begun = None, 0
        if self._device.type != "cpu":  # Unsloth's fused forward keeps them in a form of its own, and trees are large
            return
        self._begun = min(common_length(prompts), min(map(len, prompts)) - 1)
        if self._begun:
            beginning = torch.tensor([prompts[0][: self._begun]])
            self._cache = self._base.get_decoder()(input_ids=beginning, use_cache=True).past_key_values

    def _is_trusted(self, prompts: Sequence[Sequence[int]]) -> bool:
        # The branch that comes last below its row: with a wrong mask it would see its siblings.
        last = max(range(len(self._deepest)), key=self._deepest.__getitem__)
        longest = len(prompts[-1]) + len(self._deepest[last])
        try:
            with scoring_errors(), limited_to(self._base, longest):
                tree = self._score_tree(prompts)[-1]
        except (RuntimeError, ValueError, IndexError) as error:  # however a backend refuses a mask of its own
            return self._distrust(f"cannot be computed ({first_line(error)})")
        alone = self._score_alone(prompts[-1], [last])
        asked = np.isfinite(alone)  # scores that are no numbers anyway are told of by the caller
        difference = np.abs(tree - alone)[asked].max(initial=0)
        tolerance = _TOLERANCE.get(self._head.weight.dtype, 1e-3)
        if difference <= tolerance:
            return True
        return self._distrust(f"scores {difference:.1e} nats from the same row alone; rounding explains {tolerance:g}")

    @staticmethod
    def _distrust(why: str) -> bool:
        print(f"WARNING: a prefix tree {why}. Each sequence is scored by itself, which is slower.", file=sys.stderr)
        return False

    def _score_tree(self, prompts: Sequence[Sequence[int]]) -> np.ndarray:
        tree = build_tree(
            [
                Branch([*prompt[self._begun :], *deepest], len(prompt) - 1 - self._begun, row)
                for row, prompt in enumerate(prompts)
                for deepest in self._deepest
            ]
        )
        nodes = [
            tree.paths[row * len(self._deepest) + branch][len(prompt) - 1 - self._begun + depth]
            for row, prompt in enumerate(prompts)
            for branch, depth in self._place
        ]
        inputs = tree_inputs(tree)
        if self._cache is not None:
            inputs["position_ids"] = inputs["position_ids"] + self._begun
            # Every node sees all of the beginning.
            inputs["attention_mask"] = torch.nn.functional.pad(inputs["attention_mask"], (self._begun, 0), value=True)
        hidden = self._hidden(**inputs, past_key_values=self._cache)
        if self._cache is not None:
            self._cache.crop(self._begun)
        return self._edge_log_probs(hidden[nodes])

    def _score_alone(self, prompt: Sequence[int], branches: Sequence[int] | None = None) -> np.ndarray:
        """[edges], each branch read by itself, with plain causal attention; NaN for edges of branches not asked for."""
        chosen = range(len(self._deepest)) if branches is None else branches
        hidden = {i: self._hidden(input_ids=torch.tensor([[*prompt, *self._deepest[i]]])) for i in chosen}
        nowhere = torch.full_like(next(iter(hidden.values()))[0], float("nan"))
        places = [
            hidden[branch][len(prompt) - 1 + depth] if branch in hidden else nowhere for branch, depth in self._place
        ]
        return self._edge_log_probs(torch.stack(places))[0]

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
        return log_probs[:, self._context_of, self._token_of].double().cpu().numpy()
