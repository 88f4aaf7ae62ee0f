"""llama.cpp in this process: a GGUF file opened, token ids completed, and what its chat interface makes of text."""

import json
import os
import secrets
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import xllamacpp
from joblib import cpu_count

from toolkit.errors import ModelError
from toolkit.inference.gguf_file import read_gguf_header

LOG_VARIABLE = "TOOLKIT_LLAMA_LOG"
"""Environment variable: set to 1, llama.cpp's own messages appear on stderr."""
_SILENT, _VERBOSE = -1, 3


class LlamaCpp:
    """A GGUF file, opened for several sequences at a time.

    Args:
        gguf: the model file.
        context_length: tokens of the longest sequence; keys and values for all sequences are allocated at once.
        sequences: how many are computed together.
        threads: threads to compute with; None takes every core this process may use.

    Raises:
        ModelError: the file is missing, is not a GGUF file, is damaged, or is not a model that llama.cpp can run.
    """

    def __init__(self, gguf: Path, *, context_length: int, sequences: int, threads: int | None = None) -> None:
        self.gguf = gguf
        self.header = read_gguf_header(gguf)
        self._key = secrets.token_hex()
        self._server: xllamacpp.Server | None = self._start(context_length, sequences, threads or cpu_count())

    def complete(self, prompts: Sequence[Sequence[int]], **settings: Any) -> list[dict[str, Any]]:
        """One completion per prompt of token ids; the prompts are computed together.

        Args:
            prompts: token ids; nothing is added to them.
            settings: fields of llama.cpp's completion request.

        Returns:
            OpenAI-style choices, in the order of the prompts.

        Raises:
            ModelError: llama.cpp refuses the request, or the model is closed.
        """
        response = self._open.handle_completions({"prompt": [list(prompt) for prompt in prompts], **settings})
        return sorted(self._check_response(response)["choices"], key=lambda choice: choice["index"])

    def generate(self, prompt: Sequence[int], **settings: Any) -> list[int]:
        """The token ids that the model says after a prompt of token ids.

        Raises:
            ModelError: as `complete`.
        """
        # All ids, which only the verbose answer has: log-probabilities leave out parts of a character.
        request = {"prompt": list(prompt), "return_tokens": True, "verbose": True, **settings}
        return self._check_response(self._open.handle_completions(request))["__verbose"]["tokens"]

    def chat(self, messages: list[dict[str, str]], **settings: Any) -> str:
        """What the model answers when a chat client sends it these messages and nothing else.

        Raises:
            ModelError: as `complete`.
        """
        response = self._check_response(self._open.handle_chat_completions({"messages": messages, **settings}))
        return response["choices"][0]["message"]["content"]

    def chat_prompt(self, messages: list[dict[str, str]]) -> list[int]:
        """The token ids that a chat call with these messages is answered from: rendered and cut into tokens there.

        Raises:
            ModelError: as `complete`.
        """
        rendered = self._ask("/apply-template", messages=messages)["prompt"]
        return self._ask("/tokenize", content=rendered, add_special=True, parse_special=True)["tokens"]

    def close(self) -> None:
        """Free the model's memory; a closed model answers nothing."""
        self._server = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def _open(self) -> xllamacpp.Server:
        if self._server is None:
            raise ModelError(f"{self.gguf} is closed.", hint="Use it inside its `with` block.")
        return self._server

    def _check_response(self, response: dict[str, Any]) -> dict[str, Any]:
        if "error" in response:
            raise ModelError(f"llama.cpp cannot run {self.gguf} on this: {response['error']['message']}.")
        return response

    def _ask(self, route: str, **body: Any) -> Any:
        """These two routes have no function in xllamacpp; the port is this process's own."""
        headers = {"Content-Type": "application/json", "Authorization": f"Bearer {self._key}"}
        body_bytes = json.dumps(body).encode()
        request = urllib.request.Request(self._open.listening_address + route, body_bytes, headers)  # noqa: S310
        # No proxy from the environment stands between a process and itself.
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with opener.open(request, timeout=60) as response:
                return json.load(response)
        except OSError as error:
            raise ModelError(f"llama.cpp cannot render a chat with {self.gguf}: {error}.") from error

    def _start(self, context_length: int, sequences: int, threads: int) -> xllamacpp.Server:
        params = xllamacpp.CommonParams()
        params.model.path = str(self.gguf)
        params.verbosity = _VERBOSE if os.environ.get(LOG_VARIABLE) else _SILENT
        params.n_ctx = context_length * sequences
        params.n_parallel = sequences
        params.kv_unified = False  # each sequence has room for `context_length` tokens, whatever the others hold
        params.cpuparams.n_threads = params.cpuparams_batch.n_threads = threads
        params.fit_params = params.warmup = False
        params.cache_ram_mib = params.n_ctx_checkpoints = 0  # copies of earlier prompts, which rows never return to
        # In float32 throughout, attention agrees with torch to 1e-5; flash attention, float16 caches lose two digits.
        params.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
        params.cache_type_k = params.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
        # llama.cpp's server always opens a port as well: a free one, on this machine only, behind a key nobody knows.
        params.port = 0
        params.hostnames = ["127.0.0.1"]
        params.api_keys = [self._key]
        params.ui = params.endpoint_slots = False
        try:
            server = xllamacpp.Server(params)
            # A server that is freed before its loop has begun waits for it forever: let it answer once.
            server.handle_completions({"prompt": [0], "max_tokens": 1})
            return server
        except RuntimeError as error:
            raise ModelError(
                f"llama.cpp cannot load {self.gguf}: the file is cut short or damaged, its chat template is beyond "
                "llama.cpp, or it is not a model that it knows.",
                hint=f"Export it again; {LOG_VARIABLE}=1 shows llama.cpp's own messages.",
            ) from error
