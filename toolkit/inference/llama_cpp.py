"""An interface to llama.cpp in this process: completions from token ids, and its chat interface."""

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
"""The environment variable that, set to 1, lets llama.cpp print its own messages."""
_SILENT, _VERBOSE = -1, 3


class LlamaCpp:
    """A GGUF file that is open for a number of parallel sequences.

    Args:
        gguf: The model file.
        context_length: The longest sequence in tokens. The KV cache of all sequences is allocated when the file opens.
        sequences: The number of sequences that are computed together.
        threads: The number of threads. None uses all cores that are available to this process.
        use_chat_template: Whether `chat` and `tokenize_chat` are needed. They render the file's own template, and so
            does llama.cpp while it opens the file. A template with an endless loop then blocks the whole process,
            Ctrl-C included, so this belongs into a child process unless the file is trusted.

    Raises:
        ModelError: If the file is missing, is not a GGUF file, is damaged, or is not a model that llama.cpp can run.
    """

    def __init__(
        self,
        gguf: Path,
        *,
        context_length: int,
        sequences: int,
        threads: int | None = None,
        use_chat_template: bool = False,
    ) -> None:
        self.gguf = gguf
        self.header = read_gguf_header(gguf)  # before llama.cpp opens the file, which may abort on a damaged header
        self._key = secrets.token_hex()
        params = self._params(context_length, sequences, threads or cpu_count())
        if not use_chat_template:
            params.chat_template = "chatml"  # one that llama.cpp has built in, in place of the file's
        self._server: xllamacpp.Server | None = self._start(params)

    def complete(self, prompts: Sequence[Sequence[int]], **settings: Any) -> list[dict[str, Any]]:
        """Complete several prompts together.

        Args:
            prompts: The token ids of each prompt. Nothing is added to them.
            settings: Fields of llama.cpp's completion request.

        Returns:
            One OpenAI-style choice per prompt, in the order of the prompts.

        Raises:
            ModelError: If llama.cpp refuses the request, or the model is closed.
        """
        response = self._running_server.handle_completions({"prompt": [list(prompt) for prompt in prompts], **settings})
        return sorted(self._check_response(response)["choices"], key=lambda choice: choice["index"])

    def generate(self, prompt: Sequence[int], **settings: Any) -> list[int]:
        """Return the token ids that the model generates after a prompt of token ids.

        Raises:
            ModelError: As in `complete`.
        """
        # Only the verbose response has all ids. The log-probabilities omit tokens that are part of a character.
        request = {"prompt": list(prompt), "return_tokens": True, "verbose": True, **settings}
        return self._check_response(self._running_server.handle_completions(request))["__verbose"]["tokens"]

    def chat(self, messages: list[dict[str, str]], **settings: Any) -> str:
        """Return the model's answer to a chat request that has only these messages and `settings`.

        The file must be open with `use_chat_template`.

        Raises:
            ModelError: As in `complete`.
        """
        response = self._check_response(
            self._running_server.handle_chat_completions({"messages": messages, **settings})
        )
        return response["choices"][0]["message"]["content"]

    def tokenize_chat(self, messages: list[dict[str, str]]) -> list[int]:
        """Return the prompt of a chat request as token ids, with the file's chat template and llama.cpp's tokenizer.

        The file must be open with `use_chat_template`.

        Raises:
            ModelError: As in `complete`.
        """
        rendered = self._post("/apply-template", messages=messages)["prompt"]
        return self._post("/tokenize", content=rendered, add_special=True, parse_special=True)["tokens"]

    def close(self) -> None:
        """Free the model's memory. A closed model cannot be used again."""
        self._server = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def _running_server(self) -> xllamacpp.Server:
        if self._server is None:
            raise ModelError(f"{self.gguf} is already closed.", hint="Use it inside its `with` block.")
        return self._server

    def _check_response(self, response: dict[str, Any]) -> dict[str, Any]:
        if "error" in response:
            raise ModelError(f"llama.cpp failed on a request to {self.gguf}: {response['error']['message']}.")
        return response

    def _post(self, route: str, **body: Any) -> Any:
        """Send a request to a route for which xllamacpp has no function, over the server's own port."""
        headers = {"Content-Type": "application/json", "Authorization": f"Bearer {self._key}"}
        body_bytes = json.dumps(body).encode()
        request = urllib.request.Request(self._running_server.listening_address + route, body_bytes, headers)  # noqa: S310
        # Ignore the environment's proxy settings, which do not apply to a connection within one process.
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with opener.open(request, timeout=60) as response:
                return json.load(response)
        except OSError as error:
            raise ModelError(f"llama.cpp cannot render a chat request with {self.gguf}: {error}.") from error

    def _params(self, context_length: int, sequences: int, threads: int) -> xllamacpp.CommonParams:
        params = xllamacpp.CommonParams()
        params.model.path = str(self.gguf)
        params.verbosity = _VERBOSE if os.environ.get(LOG_VARIABLE) else _SILENT
        params.n_ctx = context_length * sequences
        params.n_parallel = sequences
        params.kv_unified = False  # reserves `context_length` tokens for each sequence instead of a shared pool
        params.cpuparams.n_threads = params.cpuparams_batch.n_threads = threads
        params.fit_params = params.warmup = False
        params.cache_ram_mib = params.n_ctx_checkpoints = 0  # no snapshots of earlier prompts, which are never reused
        # Layers with a sliding window keep all keys, too. They would otherwise drop those of a shared prefix, and each
        # request would compute its whole prompt again.
        params.swa_full = True
        # Attention entirely in float32 agrees with torch to 1e-5. Flash attention or a float16 cache loses two digits.
        params.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
        params.cache_type_k = params.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
        # llama.cpp's server cannot run without a port. Port 0 picks a free one, only this machine can reach it, and the
        # random key keeps other users of the machine out.
        params.port = 0
        params.hostnames = ["127.0.0.1"]
        params.api_keys = [self._key]
        params.ui = params.endpoint_slots = False
        return params

    def _start(self, params: xllamacpp.CommonParams) -> xllamacpp.Server:
        try:
            server = xllamacpp.Server(params)
            # Freeing a server whose loop has not started yet hangs forever, so have it answer one request first.
            server.handle_completions({"prompt": [0], "max_tokens": 1})
            return server
        except RuntimeError as error:
            raise ModelError(
                f"llama.cpp cannot load {self.gguf}: the file is truncated or damaged, or its chat template or "
                "architecture is not supported.",
                hint=f"Export it again. Set {LOG_VARIABLE}=1 to see llama.cpp's own messages.",
            ) from error
