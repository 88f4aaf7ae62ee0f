"""Scores the labels on a GGUF file with llama.cpp: token ids go in, log-probabilities come out."""

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np

from toolkit.errors import ModelError
from toolkit.inference.label_trie import LabelTrie
from toolkit.inference.llama_cpp import LlamaCpp
from toolkit.utils.progress import progress_bar

DEFAULT_CONTEXT_LENGTH = 4096
ROWS_AT_ONCE = 8
"""Past its prompt a row is read token by token, which is memory traffic alone: eight rows cost about what one does."""
_TOP_TOKENS = 64  # costs 0.5 ms more than 1; 1,000 cost 7 ms and the whole vocabulary of Llama 3 over a second
_FORCING_BIAS = 1e6
_LOG_SMALLEST_FLOAT32 = math.log(2.0**-149)  # llama.cpp computes a float32 probability first; smaller ones come as 0


class LlamaCppScorer:
    """Log-probabilities of a label trie's edges on a GGUF file.

    Each context of the trie is one request for one token of several rows. A logit bias forces the token that llama.cpp
    samples, and llama.cpp reports its log-probability, and those of the likeliest tokens, from the logits before any
    bias: exact under the full vocabulary. A second child that is not among the likeliest is forced by a request of its
    own. Each of llama.cpp's sequences keeps the keys and values of its last prompt, so that a request computes only
    what differs from it: rows go in sorted order, each sequence through neighbours of its own.

    Results do not depend on time or threads: what is computed together follows from the rows alone. They do depend, in
    the fifth digit, on which rows were computed together.

    Args:
        gguf: the model file.
        trie: the labels' token ids.
        context_length: the longest prompt plus label, in tokens.
        rows_at_once: rows that are computed together; memory for keys and values grows with it.
        threads: threads to compute with; None takes every core this process may use.

    Raises:
        ModelError: the file is missing, is not a GGUF file, is damaged, or is not a model that llama.cpp can run.
    """

    def __init__(
        self,
        gguf: Path,
        trie: LabelTrie,
        *,
        context_length: int | None = None,
        rows_at_once: int = ROWS_AT_ONCE,
        threads: int | None = None,
    ) -> None:
        self.trie = trie
        self.context_length = context_length or DEFAULT_CONTEXT_LENGTH
        self.rows_at_once = rows_at_once
        self._children: dict[tuple[int, ...], dict[int, int]] = {path: {} for path in trie.contexts}
        for index, edge in enumerate(trie.edges):
            self._children[edge.path][edge.token] = index
        self._max_label_depth = max(len(path) for path in trie.contexts)
        self.model = LlamaCpp(gguf, context_length=self.context_length, sequences=rows_at_once, threads=threads)

    def score(self, prompts: Sequence[Sequence[int]]) -> np.ndarray:
        """Score rows.

        Args:
            prompts: token ids of each row up to the answer, the beginning-of-text token included; nothing is added.

        Returns:
            [rows, edges] natural logarithms under the full vocabulary, float64, in the order of the rows.

        Raises:
            ModelError: a prompt is empty or longer than the context, or holds an id that the model does not have.
        """
        for row, prompt in enumerate(prompts):
            self._check_length(row, len(prompt))
        scores = np.full((len(prompts), len(self.trie.edges)), np.nan)
        with progress_bar(total=len(prompts), desc="scoring", unit="row") as bar:
            for rows in _row_batches(prompts, self.rows_at_once):
                for path, children in self._children.items():
                    contexts = [[*prompts[row], *path] for row in rows]
                    for row, log_probs in zip(rows, self._log_probs(contexts, list(children)), strict=True):
                        for token, edge in children.items():
                            scores[row, edge] = log_probs[token]
                bar.update(len(rows))
        return scores

    def close(self) -> None:
        """Free the model's memory; a closed scorer cannot score."""
        self.model.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _check_length(self, row: int, length: int) -> None:
        if length == 0:
            raise ModelError(f"Row {row} has no tokens to score.", hint="A prompt holds at least the first token.")
        if (needed := length + self._max_label_depth + 1) > self.context_length:
            raise ModelError(
                f"Row {row} needs {needed} tokens with its label, more than the context of {self.context_length}.",
                hint=f"Give context_length={needed} or more, or shorten the row.",
            )

    def _log_probs(self, contexts: list[list[int]], tokens: list[int]) -> list[dict[int, float]]:
        """Log-probabilities of `tokens` after each context, each under the full vocabulary."""
        log_probs = self._request(contexts, forced=tokens[0], top=_TOP_TOKENS if len(tokens) > 1 else 1)
        for token in tokens[1:]:
            missing = [i for i, row_log_probs in enumerate(log_probs) if token not in row_log_probs]
            if missing:
                forced_log_probs = self._request([contexts[i] for i in missing], forced=token, top=1)
                for i, row_log_probs in zip(missing, forced_log_probs, strict=True):
                    log_probs[i] |= row_log_probs
        return log_probs

    def _request(self, contexts: list[list[int]], *, forced: int, top: int) -> list[dict[int, float]]:
        """Log-probability of the forced token and of the `top` likeliest ones, after each context."""
        choices = self.model.complete(
            contexts,
            max_tokens=1,
            n_probs=top,
            logit_bias=[[forced, _FORCING_BIAS]],
            samplers=["top_k"],
            top_k=1,
            cache_prompt=True,
        )
        return [self._parse_choice(choice["logprobs"]["content"][0], forced) for choice in choices]

    def _parse_choice(self, sampled: dict[str, Any], forced: int) -> dict[int, float]:
        if sampled["id"] != forced:
            raise ModelError(
                f"{self.model.gguf} cannot produce the label token {forced}, so it is not the model these labels are "
                "for.",
                hint="Score it with the tokenizer it was exported with.",
            )
        entries = [*sampled["top_logprobs"], sampled]
        return {entry["id"]: max(entry["logprob"], _LOG_SMALLEST_FLOAT32) for entry in entries}


def _row_batches(prompts: Sequence[Sequence[int]], rows_at_once: int) -> Iterator[list[int]]:
    """Rows to compute together, one from each of `rows_at_once` runs of the sorted rows."""
    order = sorted(range(len(prompts)), key=lambda row: tuple(prompts[row]))
    sequences = np.array_split(np.array(order, dtype=int), rows_at_once)
    for step in range(len(sequences[0])):
        yield [int(sequence[step]) for sequence in sequences if step < len(sequence)]
