"""Free mode: what a model says of itself, greedily and without constraint, and which of that is a label."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol

import torch

from toolkit.batching.sampling import length_batches
from toolkit.inference.checks import scoring_errors
from toolkit.inference.loading import check_gguf_vocabulary
from toolkit.models.attention import accept_trees
from toolkit.prompts.encoder import PromptEncoder
from toolkit.recipe.schema import Recipe
from toolkit.runs.model_ref import ModelRef
from toolkit.runs.trained_run import TrainedRun
from toolkit.utils.progress import progress_bar

if TYPE_CHECKING:
    from toolkit.inference.llama_cpp import LlamaCpp

_EXTRA_TOKENS = 4
"""Tokens that an answer may be longer than the longest label: enough to see that it is another one."""
_BATCH_TOKENS = 8192


class Generator(Protocol):
    """What every engine does: prompts' token ids in, token ids of each answer out, up to its end of turn."""

    def generate(self, prompts: Sequence[Sequence[int]]) -> list[list[int]]:
        """Greedy answers, in the order of the rows."""
        ...


class TorchGenerator:
    """Greedy generation with a torch model, several rows at once.

    Rows of like length go together, padded on the left, where the mask hides the padding: an answer does not depend on
    the rows beside it, up to rounding.

    Args:
        model: a causal language model in evaluation mode.
        stop_token_ids: token ids that end a turn, beside those that the model's own generation config names.
        max_new_tokens: tokens after which an answer is cut.
        batch_tokens: tokens of a batch, padding included.
    """

    def __init__(
        self, model: Any, stop_token_ids: Sequence[int], *, max_new_tokens: int, batch_tokens: int = _BATCH_TOKENS
    ) -> None:
        self._model = model
        self._stop_token_ids = [*stop_token_ids, *_eos_token_ids(model)]
        self._max_new_tokens = max_new_tokens
        self._batch_tokens = batch_tokens

    def generate(self, prompts: Sequence[Sequence[int]]) -> list[list[int]]:
        """Greedy answers, in the order of the rows."""
        accept_trees(self._model, False)  # the model may have scored trees before
        answers: list[list[int]] = [[]] * len(prompts)
        with progress_bar(total=len(prompts), desc="generating", unit="row") as bar:
            for rows in length_batches([len(prompt) + self._max_new_tokens for prompt in prompts], self._batch_tokens):
                with scoring_errors():
                    generated = self._answer([prompts[row] for row in rows])
                for row, ids in zip(rows, generated, strict=True):
                    answers[row] = cut_at_stop_token(ids, self._stop_token_ids)
                bar.update(len(rows))
        return answers

    @torch.inference_mode()
    def _answer(self, prompts: Sequence[Sequence[int]]) -> list[list[int]]:
        width = max(map(len, prompts))
        pad_token_id = self._stop_token_ids[0]  # hidden by the mask before a prompt, cut off behind an answer
        ids = torch.tensor([[pad_token_id] * (width - len(prompt)) + list(prompt) for prompt in prompts])
        mask = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts])
        device = self._model.get_input_embeddings().weight.device
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
    """Greedy generation on a GGUF file, one row after the other.

    Args:
        model: the opened file.
        stop_token_ids: token ids that end a turn.
        max_new_tokens: tokens after which an answer is cut.
    """

    def __init__(self, model: "LlamaCpp", stop_token_ids: Sequence[int], *, max_new_tokens: int) -> None:
        self._model = model
        self._stop_token_ids = list(stop_token_ids)
        self._max_new_tokens = max_new_tokens

    def generate(self, prompts: Sequence[Sequence[int]]) -> list[list[int]]:
        """Greedy answers, in the order of the rows."""
        return [
            cut_at_stop_token(self._answer(prompt), self._stop_token_ids)
            for prompt in progress_bar(prompts, desc="generating", unit="row")
        ]

    def _answer(self, prompt: Sequence[int]) -> list[int]:
        settings = {"max_tokens": self._max_new_tokens, "samplers": ["top_k"], "top_k": 1, "cache_prompt": True}
        return self._model.generate(prompt, **settings)


@contextmanager
def open_gguf_generator(run: TrainedRun, model: ModelRef, encoder: PromptEncoder) -> Iterator[Generator]:
    """Open a GGUF file of a run to let it write.

    Raises:
        ModelError: it cannot be loaded, or has another vocabulary than the run.
    """
    from toolkit.inference.llama_cpp import LlamaCpp

    context_length = run.recipe.model.max_seq_length + _EXTRA_TOKENS
    with LlamaCpp(model.file, context_length=context_length, sequences=1) as llama_cpp:
        check_gguf_vocabulary(llama_cpp, run)
        yield LlamaCppGenerator(llama_cpp, encoder.stop_token_ids, max_new_tokens=_max_new_tokens(encoder))


def torch_generator(model: Any, recipe: Recipe, encoder: PromptEncoder) -> Generator:
    """Return the generator of a loaded torch model."""
    batch_tokens = recipe.evaluation.batch_tokens
    batch_tokens = _BATCH_TOKENS if batch_tokens == "auto" else batch_tokens
    return TorchGenerator(
        model, encoder.stop_token_ids, max_new_tokens=_max_new_tokens(encoder), batch_tokens=batch_tokens
    )


def _max_new_tokens(encoder: PromptEncoder) -> int:
    return max(map(len, encoder.label_ids.values())) + _EXTRA_TOKENS


def _eos_token_ids(model: Any) -> list[int]:
    """The ids in the model's generation config; of a GGUF, llama.cpp heeds those by itself."""
    ids = model.generation_config.eos_token_id
    return ids if isinstance(ids, list) else [] if ids is None else [ids]


def cut_at_stop_token(ids: Sequence[int], stop_token_ids: Sequence[int]) -> list[int]:
    """The ids before the first that ends a turn; all of them where none does."""
    return list(ids[: next((i for i, token in enumerate(ids) if token in stop_token_ids), len(ids))])
