"""Scores the label trie with a torch model, by padded forward passes over prompt and label together."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from tqdm.auto import tqdm

from toolkit.batching.collators import pad
from toolkit.batching.sampling import batches_by_tokens
from toolkit.decoding.label_trie import LabelTrie


class TorchScorer:
    """Log-probabilities of a trie's edges under a causal language model.

    A row becomes one sequence for each of the trie's deepest contexts: the prompt and what precedes a label's last
    token. The head is applied at the predicting positions alone, to hidden states, so that no backend's shortcuts
    with logits (unslothai/unsloth#3126) can reach a score.

    Args:
        model: a causal language model, or one with an adapter, in evaluation mode.
        trie: the labels.
        batch_tokens: tokens per forward pass, padding included; changes speed and memory alone.
    """

    def __init__(self, model: Any, trie: LabelTrie, *, batch_tokens: int) -> None:
        self._base = model.get_base_model() if hasattr(model, "get_base_model") else model
        self._device = self._base.get_input_embeddings().weight.device
        self._batch_tokens = batch_tokens
        self._edges = len(trie.edges)
        contexts = trie.contexts
        self._deepest = [c for c in contexts if not any(o != c and o[: len(c)] == c for o in contexts)]
        # For each sequence: (edge, depth of its prediction, its token); an edge is read from one sequence only.
        owner = {path: next(i for i, c in enumerate(self._deepest) if c[: len(path)] == path) for path in contexts}
        self._reads: list[list[tuple[int, int, int]]] = [[] for _ in self._deepest]
        for index, edge in enumerate(trie.edges):
            self._reads[owner[edge.path]].append((index, len(edge.path), edge.token))

    def score(self, prompts: Sequence[Sequence[int]]) -> np.ndarray:
        """Score rows.

        Args:
            prompts: token ids of each row up to the answer.

        Returns:
            [rows, edges] natural logarithms under the full vocabulary, float64, in the order of the rows.
        """
        items = [(row, deepest) for row in range(len(prompts)) for deepest in range(len(self._deepest))]
        lengths = [len(prompts[row]) + len(self._deepest[deepest]) for row, deepest in items]
        scores = np.full((len(prompts), self._edges), np.nan)
        with tqdm(total=len(prompts), desc="scoring", unit="row") as bar:
            done = 0.0
            for batch in batches_by_tokens(lengths, self._batch_tokens):
                chosen = [items[i] for i in batch]
                for row, edge, value in self._forward(prompts, chosen):
                    scores[row, edge] = value
                done += len(batch) / len(self._deepest)
                bar.update(int(done) - bar.n)
        return scores

    @torch.inference_mode()
    def _forward(
        self, prompts: Sequence[Sequence[int]], items: Sequence[tuple[int, int]]
    ) -> Iterator[tuple[int, int, float]]:
        sequences = [[*prompts[row], *self._deepest[deepest]] for row, deepest in items]
        mask = pad([[1] * len(sequence) for sequence in sequences], 0).to(self._device)
        hidden = self._base.get_decoder()(
            input_ids=pad(sequences, 0).to(self._device), attention_mask=mask, use_cache=False
        ).last_hidden_state
        reads = [
            (i, row, len(prompts[row]) - 1 + depth, edge, token)
            for i, (row, deepest) in enumerate(items)
            for edge, depth, token in self._reads[deepest]
        ]
        # The edges at one position are read from one row of logits.
        places = list(dict.fromkeys((i, position) for i, _, position, _, _ in reads))
        index = {place: number for number, place in enumerate(places)}
        sequence_of, position_of = (torch.tensor(column, device=self._device) for column in zip(*places, strict=True))
        logits = self._base.get_output_embeddings()(hidden[sequence_of, position_of]).float()
        log_probs = logits.log_softmax(dim=-1)
        place_of = torch.tensor([index[i, position] for i, _, position, _, _ in reads], device=self._device)
        token_of = torch.tensor([token for *_, token in reads], device=self._device)
        values = log_probs[place_of, token_of].double().cpu().tolist()
        for (_, row, _, edge, _), value in zip(reads, values, strict=True):
            yield row, edge, value
