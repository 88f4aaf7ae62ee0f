"""Scores the labels on a GGUF file with llama.cpp, in this process: token ids go in, log-probabilities come out."""

import math
import os
import secrets
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import xllamacpp
from tqdm.auto import tqdm

from toolkit.decoding.label_trie import LabelTrie
from toolkit.errors import ModelError

LOG_VARIABLE = "TOOLKIT_LLAMA_LOG"
"""Environment variable: set to 1, llama.cpp's own messages appear on stderr."""
DEFAULT_CONTEXT_LENGTH = 4096
_SILENT, _VERBOSE = -1, 3
_TOP_TOKENS = 64  # costs 0.5 ms more than 1; 1,000 cost 7 ms and the whole vocabulary of Llama 3 over a second
_FORCING_BIAS = 1e6
_LOG_SMALLEST_FLOAT32 = math.log(2.0**-149)  # llama.cpp computes a float32 probability first; smaller ones come as 0


class LlamaCppScorer:
    """Log-probabilities of a label trie's edges on a GGUF file.

    Each context of the trie is one request for one token. A logit bias forces the token that llama.cpp samples, and
    llama.cpp reports its log-probability, and those of the likeliest tokens, from the logits before any bias: exact
    under the full vocabulary. A second child that is not among the likeliest is forced by a request of its own. The
    server keeps the last prompt's keys and values, so a request computes only what differs from the one before.

    Results do not depend on time or threads. They do depend, in the fifth digit, on how much of a prompt was cached.

    Args:
        gguf: the model file.
        trie: the labels' token ids.
        context_length: the longest prompt plus label, in tokens; keys and values for it are allocated at once.
        threads: threads to compute with; None takes every core this process may use.

    Raises:
        ModelError: the file is missing, is not a GGUF file, is damaged, or is not a model that llama.cpp can run.
    """

    def __init__(
        self, gguf: Path, trie: LabelTrie, *, context_length: int | None = None, threads: int | None = None
    ) -> None:
        self.gguf = gguf
        self.trie = trie
        self.show_progress = True
        self.context_length = context_length or DEFAULT_CONTEXT_LENGTH
        self._children: dict[tuple[int, ...], dict[int, int]] = {path: {} for path in trie.contexts}
        for index, edge in enumerate(trie.edges):
            self._children[edge.path][edge.token] = index
        self._deepest = max(len(path) for path in trie.contexts)
        self._server: xllamacpp.Server | None = _start_server(gguf, self.context_length, threads or _core_count())

    def score(self, prompts: Sequence[Sequence[int]]) -> np.ndarray:
        """Score rows; those that share a beginning are fastest one after the other.

        Args:
            prompts: token ids of each row up to the answer, the beginning-of-text token included; nothing is added.

        Returns:
            [rows, edges] natural logarithms under the full vocabulary, float64, in the order of the rows.

        Raises:
            ModelError: a prompt is empty or longer than the context, or holds an id that the model does not have.
        """
        for row, prompt in enumerate(prompts):
            self._refuse_length(row, len(prompt))
        scores = np.full((len(prompts), len(self.trie.edges)), np.nan)
        for row, prompt in enumerate(tqdm(prompts, desc="scoring", unit="row", disable=not self.show_progress)):
            for path, children in self._children.items():
                found = self._log_probs([*prompt, *path], list(children))
                for token, edge in children.items():
                    scores[row, edge] = found[token]
        return scores

    def close(self) -> None:
        """Free the model's memory; a closed scorer cannot score."""
        self._server = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _refuse_length(self, row: int, length: int) -> None:
        if length == 0:
            raise ModelError(f"Row {row} has no tokens to score.", hint="A prompt holds at least the first token.")
        if (needed := length + self._deepest + 1) > self.context_length:
            raise ModelError(
                f"Row {row} needs {needed} tokens with its label, more than the context of {self.context_length}.",
                hint=f"Give context_length={needed} or more, or shorten the row.",
            )

    def _log_probs(self, context: list[int], tokens: list[int]) -> dict[int, float]:
        """Log-probabilities of `tokens` after `context`, each under the full vocabulary."""
        found = self._request(context, forced=tokens[0], top=_TOP_TOKENS if len(tokens) > 1 else 1)
        for token in tokens[1:]:
            if token not in found:
                found |= self._request(context, forced=token, top=1)
        return found

    def _request(self, context: list[int], *, forced: int, top: int) -> dict[int, float]:
        """Log-probability of the forced token and of the `top` likeliest ones."""
        if self._server is None:
            raise ModelError(f"The scorer of {self.gguf} is closed.", hint="Score inside its `with` block.")
        answer = self._server.handle_completions(
            {
                "prompt": context,
                "max_tokens": 1,
                "n_probs": top,
                "logit_bias": [[forced, _FORCING_BIAS]],
                "samplers": ["top_k"],
                "top_k": 1,
                "cache_prompt": True,
            }
        )
        if "error" in answer:
            raise ModelError(f"llama.cpp cannot score on {self.gguf}: {answer['error']['message']}.")
        sampled: dict[str, Any] = answer["choices"][0]["logprobs"]["content"][0]
        if sampled["id"] != forced:
            raise ModelError(
                f"{self.gguf} cannot produce the label token {forced}, so it is not the model these labels are for.",
                hint="Score it with the tokenizer it was exported with.",
            )
        entries = [*sampled["top_logprobs"], sampled]
        return {entry["id"]: max(entry["logprob"], _LOG_SMALLEST_FLOAT32) for entry in entries}


def _start_server(gguf: Path, context_length: int, threads: int) -> xllamacpp.Server:
    _refuse_other_files(gguf)
    params = xllamacpp.CommonParams()
    params.model.path = str(gguf)
    params.verbosity = _VERBOSE if os.environ.get(LOG_VARIABLE) else _SILENT
    params.n_ctx = context_length
    # One sequence at a time: what is computed together would otherwise depend on timing, and so would the last digits.
    params.n_parallel = 1
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = threads
    params.fit_params = params.warmup = False
    params.cache_ram_mib = params.n_ctx_checkpoints = 0  # copies of earlier prompts, which rows never return to
    # In float32 throughout, attention agrees with torch to 1e-5; flash attention and float16 caches lose two digits.
    params.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
    params.cache_type_k = params.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
    # llama.cpp's server always opens a port as well: a free one, on this machine only, behind a key nobody knows.
    params.port = 0
    params.hostnames = ["127.0.0.1"]
    params.api_keys = [secrets.token_hex()]
    params.ui = params.endpoint_slots = False
    try:
        server = xllamacpp.Server(params)
        # A server that is freed before its loop has begun waits for it forever: let it answer once.
        server.handle_completions({"prompt": [0], "max_tokens": 1})
        return server
    except RuntimeError as error:
        raise ModelError(
            f"llama.cpp cannot load {gguf}: the file is cut short or damaged, or not a model it knows.",
            hint=f"Export it again; {LOG_VARIABLE}=1 shows llama.cpp's own messages.",
        ) from error


def _refuse_other_files(gguf: Path) -> None:
    try:
        with gguf.open("rb") as file:
            magic = file.read(4)
    except OSError as error:
        raise ModelError(
            f"The GGUF file {gguf} cannot be read: {error.strerror}.", hint="Export it with scripts/export_gguf.py."
        ) from error
    if magic != b"GGUF":
        raise ModelError(f"{gguf} is not a GGUF file.", hint="Give a file that scripts/export_gguf.py wrote.")


def _core_count() -> int:
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count() or 1
