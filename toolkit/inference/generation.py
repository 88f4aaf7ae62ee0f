"""Generators for free mode: greedy generation without constraints, with torch or llama.cpp."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol

import torch

from toolkit.batching.sampling import batch_by_length
from toolkit.inference.checks import scoring_errors
from toolkit.inference.loading import check_gguf_vocabulary
from toolkit.inference.model_seal import verify_model
from toolkit.models.tree_attention import accept_trees
from toolkit.prompts.prompt_tokenizer import PromptTokenizer
from toolkit.recipe.schema import Recipe
from toolkit.runs.model_ref import ModelRef
from toolkit.runs.trained_run import TrainedRun
from toolkit.utils.progress import progress_bar
from toolkit.utils.storage import folder_lock

if TYPE_CHECKING:
    from toolkit.inference.llama_cpp import LlamaCpp

_EXTRA_TOKENS = 4
"""The number of tokens generated beyond the longest label, so that a longer answer is recognized."""
_BATCH_TOKENS = 8192
"""The number of tokens per batch, if evaluation.batch_tokens is auto."""


class Generator(Protocol):
    """The interface of an engine that generates text."""

    def generate(self, prompts: Sequence[Sequence[int]]) -> list[list[int]]:
        """Return the token ids of each greedy answer before its end of turn, in the order of the prompts."""
        ...


class TorchGenerator:
    """A generator that decodes greedily with a torch model, in batches of rows of similar length.

    Args:
        model: A causal language model in evaluation mode.
        stop_token_ids: Token ids that end a turn, in addition to those in the model's generation config.
        max_new_tokens: The maximum length of an answer in tokens.
        batch_tokens: The tokens per batch, including padding.
    """

    def __init__(
        self, model: Any, stop_token_ids: Sequence[int], *, max_new_tokens: int, batch_tokens: int = _BATCH_TOKENS
    ) -> None:
        self._model = model
        # A model can have more end tokens than its chat template uses: Llama 3 also has <|end_of_text|> and <|eom_id|>.
        self._stop_token_ids = [*stop_token_ids, *_eos_token_ids(model)]
        self._max_new_tokens = max_new_tokens
        self._batch_tokens = batch_tokens

    def generate(self, prompts: Sequence[Sequence[int]]) -> list[list[int]]:
        """Return the token ids of each greedy answer before its end of turn, in the order of the prompts."""
        accept_trees(self._model, False)  # the same model may have scored prefix trees before
        answers: list[list[int]] = [[]] * len(prompts)
        with progress_bar(total=len(prompts), desc="generating", unit="row") as bar:
            for rows in batch_by_length([len(prompt) + self._max_new_tokens for prompt in prompts], self._batch_tokens):
                with scoring_errors():
                    generated = self._generate_batch([prompts[row] for row in rows])
                for row, ids in zip(rows, generated, strict=True):
                    answers[row] = cut_at_stop_token(ids, self._stop_token_ids)
                bar.update(len(rows))
        return answers

    @torch.inference_mode()
    def _generate_batch(self, prompts: Sequence[Sequence[int]]) -> list[list[int]]:
        width = max(map(len, prompts))
        # Any id works as padding: before a prompt the mask hides it, and after an answer it is cut off as a stop token.
        pad_token_id = self._stop_token_ids[0]
        # Padding goes on the left, so that every prompt ends where generation starts.
        ids = torch.tensor([[pad_token_id] * (width - len(prompt)) + list(prompt) for prompt in prompts])
        mask = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts])
        device = self._model.get_input_embeddings().weight.device
        # Every sampling option is set, because the model's generation config may have values of its own.
        output_ids = self._model.generate(
            input_ids=ids.to(device),
            attention_mask=mask.to(device),
            max_new_tokens=self._max_new_tokens,
            do_sample=False,
            num_beams=1,
            temperature=None,
            top_p=None,
            top_k=None,
            repetition_penalty=1.0,
            eos_token_id=self._stop_token_ids,
            pad_token_id=pad_token_id,
        )
        return output_ids[:, width:].tolist()


class LlamaCppGenerator:
    """A generator that decodes greedily with a GGUF file, one row at a time.

    Args:
        model: The opened file.
        stop_token_ids: Token ids that end a turn.
        max_new_tokens: The maximum length of an answer in tokens.
    """

    def __init__(self, model: "LlamaCpp", stop_token_ids: Sequence[int], *, max_new_tokens: int) -> None:
        self._model = model
        self._stop_token_ids = list(stop_token_ids)
        self._max_new_tokens = max_new_tokens

    def generate(self, prompts: Sequence[Sequence[int]]) -> list[list[int]]:
        """Return the token ids of each greedy answer before its end of turn, in the order of the prompts."""
        return [
            cut_at_stop_token(self._generate_answer(prompt), self._stop_token_ids)
            for prompt in progress_bar(prompts, desc="generating", unit="row")
        ]

    def _generate_answer(self, prompt: Sequence[int]) -> list[int]:
        settings = {"max_tokens": self._max_new_tokens, "samplers": ["top_k"], "top_k": 1, "cache_prompt": True}
        return self._model.generate(prompt, **settings)


@contextmanager
def open_gguf_generator(run: TrainedRun, model: ModelRef, prompt_tokenizer: PromptTokenizer) -> Iterator[Generator]:
    """Open a GGUF file of a run for generation.

    Raises:
        ModelError: If the file cannot be loaded, or does not have the vocabulary of the run.
    """
    from toolkit.inference.llama_cpp import LlamaCpp

    context_length = run.recipe.model.max_seq_length + _EXTRA_TOKENS
    with folder_lock(run.path, shared=True):
        verify_model(run, model)
    with LlamaCpp(model.file, context_length=context_length, sequences=1) as llama_cpp:
        check_gguf_vocabulary(llama_cpp, run)
        yield LlamaCppGenerator(
            llama_cpp, prompt_tokenizer.stop_token_ids, max_new_tokens=_max_new_tokens(prompt_tokenizer)
        )


def make_torch_generator(model: Any, recipe: Recipe, prompt_tokenizer: PromptTokenizer) -> Generator:
    """Return a generator for a loaded torch model."""
    batch_tokens = recipe.evaluation.batch_tokens
    batch_tokens = _BATCH_TOKENS if batch_tokens == "auto" else batch_tokens
    return TorchGenerator(
        model,
        prompt_tokenizer.stop_token_ids,
        max_new_tokens=_max_new_tokens(prompt_tokenizer),
        batch_tokens=batch_tokens,
    )


def _max_new_tokens(prompt_tokenizer: PromptTokenizer) -> int:
    return max(map(len, prompt_tokenizer.label_ids.values())) + _EXTRA_TOKENS


def _eos_token_ids(model: Any) -> list[int]:
    """Return the end-of-sequence ids in the model's generation config. llama.cpp stops at those of a GGUF file."""
    ids = model.generation_config.eos_token_id
    return ids if isinstance(ids, list) else [] if ids is None else [ids]


def cut_at_stop_token(ids: Sequence[int], stop_token_ids: Sequence[int]) -> list[int]:
    """Return the token ids before the first stop token, or all of them if there is none."""
    return list(ids[: next((i for i, token in enumerate(ids) if token in stop_token_ids), len(ids))])
