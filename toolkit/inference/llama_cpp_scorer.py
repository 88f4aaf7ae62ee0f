"""A label scorer for GGUF files that sends token ids to llama.cpp and reads log-probabilities."""

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
"""The number of rows that are computed together.

After its prompt, a row is processed token by token. This is limited by memory bandwidth, because every token reads all
weights, so eight rows take about as long as one."""
_TOP_TOKENS = 64  # 64 take 0.5 ms longer than one, 1,000 take 7 ms, and Llama 3's vocabulary over a second
_MANY_TOP_TOKENS = 4096  # 30 ms
_FORCING_BIAS = 1e6
# llama.cpp computes probabilities in float32. A smaller one underflows to 0, whose logarithm is -inf.
_LOG_SMALLEST_FLOAT32 = math.log(2.0**-149)


class LlamaCppScorer:
    """A scorer that returns the log-probabilities of a label trie's edges under a GGUF file.

    For each context of the trie, one request generates one token for several rows. A logit bias forces llama.cpp to
    sample a child of the context. llama.cpp reports the log-probabilities of this token and of the most likely tokens
    from the logits before the bias, so they are exact under the full vocabulary. A child that is not among the most
    likely tokens is forced in a separate request, or looked up in longer lists of likely tokens if it is only a part of
    a character.

    Each of llama.cpp's sequences keeps the keys and values of its last prompt, and computes only the tokens that differ
    from it. Therefore rows are sorted, and each sequence works through a contiguous share of them.

    Results do not depend on timing or the number of threads, because the grouping follows only from the rows.
    Grouping rows differently changes only the fifth digit.

    Args:
        gguf: The model file.
        trie: The labels.
        context_length: The longest prompt plus label in tokens.
        rows_at_once: The rows that are computed together. The KV cache grows with it.
        threads: The number of threads. None uses all cores that are available to this process.

    Raises:
        ModelError: If the file is missing, is not a GGUF file, is damaged, or is not a model that llama.cpp can run.
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
            prompts: The token ids of each row before its answer, including the beginning-of-text token. Nothing is
                added to them.

        Returns:
            Natural logarithms under the full vocabulary, [rows, edges], float64, in the order of the rows.

        Raises:
            ModelError: If a prompt is empty, is too long for the context, or has a token id that the model lacks.
        """
        for row, prompt in enumerate(prompts, 1):
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
        """Free the model's memory. A closed scorer cannot be used again."""
        self.model.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _check_length(self, row: int, length: int) -> None:
        if length == 0:
            raise ModelError(f"Row {row} has no tokens to score.", hint="Give every prompt at least one token.")
        if (needed := length + self._max_label_depth + 1) > self.context_length:
            raise ModelError(
                f"Row {row} needs {needed} tokens with its label, but the context has only {self.context_length}.",
                hint=f"Set context_length={needed} or more, or shorten the row.",
            )

    def _log_probs(self, contexts: list[list[int]], tokens: list[int]) -> list[dict[int, float]]:
        """Return the log-probabilities of `tokens` after each context, under the full vocabulary."""
        log_probs: list[dict[int, float]] = [{} for _ in contexts]
        for token in tokens:
            missing = [i for i, row_log_probs in enumerate(log_probs) if token not in row_log_probs]
            if missing:
                top = _TOP_TOKENS if token == tokens[0] and len(tokens) > 1 else 1
                forced_log_probs = self._request([contexts[i] for i in missing], forced=token, top=top)
                for i, row_log_probs in zip(missing, forced_log_probs, strict=True):
                    log_probs[i] |= row_log_probs
        return log_probs

    def _request(self, contexts: list[list[int]], *, forced: int, top: int) -> list[dict[int, float]]:
        """Return the log-probabilities of the forced token and of the `top` most likely tokens after each context."""
        choices = self._force(contexts, forced, top)
        if all(choice["logprobs"] for choice in choices):
            return [self._parse_choice(choice["logprobs"]["content"][0], forced) for choice in choices]
        # llama.cpp reports nothing about a token at which a character is incomplete, such as the first of an emoji's.
        return [self._search(context, forced) for context in contexts]

    def _search(self, context: list[int], token: int) -> dict[int, float]:
        """Return the log-probabilities of the most likely tokens, of as many as it takes to find `token`."""
        # Any token with a complete text will do to be sampled, and the end-of-turn token is one.
        end_of_turn = self.trie.edges[-1].token
        log_probs: dict[int, float] = {}
        for top in (_TOP_TOKENS, _MANY_TOP_TOKENS, len(self.model.header.fields["tokenizer.ggml.tokens"])):
            [choice] = self._force([context], end_of_turn, top)
            log_probs = self._parse_choice(choice["logprobs"]["content"][0], end_of_turn)
            if token in log_probs:
                return log_probs
        raise self._vocabulary_error(token)

    def _force(self, contexts: list[list[int]], token: int, top: int) -> list[dict[str, Any]]:
        """Generate `token` after each context, and return llama.cpp's choices with the `top` most likely tokens."""
        return self.model.complete(
            contexts,
            max_tokens=1,
            n_probs=top,
            logit_bias=[[token, _FORCING_BIAS]],
            samplers=["top_k"],  # with k = 1 this is greedy: it takes the token with the bias
            top_k=1,
            cache_prompt=True,
        )

    def _parse_choice(self, sampled: dict[str, Any], forced: int) -> dict[int, float]:
        if sampled["id"] != forced:
            raise self._vocabulary_error(forced)
        entries = [*sampled["top_logprobs"], sampled]
        return {entry["id"]: max(entry["logprob"], _LOG_SMALLEST_FLOAT32) for entry in entries}

    def _vocabulary_error(self, token: int) -> ModelError:
        return ModelError(
            f"{self.model.gguf} cannot generate the label token {token}, so its vocabulary does not match the labels.",
            hint="Score it with the tokenizer that it was exported with.",
        )


def _row_batches(prompts: Sequence[Sequence[int]], rows_at_once: int) -> Iterator[list[int]]:
    """Yield rows to compute together: one from each of `rows_at_once` contiguous shares of the sorted rows."""
    order = sorted(range(len(prompts)), key=lambda row: tuple(prompts[row]))
    sequences = np.array_split(np.array(order, dtype=int), rows_at_once)
    for step in range(len(sequences[0])):
        yield [int(sequence[step]) for sequence in sequences if step < len(sequence)]
