"""Free mode: what a model says of itself, greedily and without constraint, and which of that is a label."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import torch
from tqdm.auto import tqdm

from toolkit.batching.sampling import length_batches
from toolkit.out_of_memory import scoring_errors
from toolkit.prompts import PromptEncoder
from toolkit.recipe import Recipe
from toolkit.run_folder import RunFolder

if TYPE_CHECKING:
    from toolkit.decoding.llama_cpp import LlamaCpp

_BEYOND_LABELS = 4
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
        ends: token ids that end a turn, beside those that the model's own generation config names.
        longest: tokens after which an answer is cut.
        batch_tokens: tokens of a batch, padding included.
    """

    def __init__(self, model: Any, ends: Sequence[int], *, longest: int, batch_tokens: int = _BATCH_TOKENS) -> None:
        self._model = model
        self._ends = [*ends, *_own_ends(model)]
        self._longest = longest
        self._batch_tokens = batch_tokens

    def generate(self, prompts: Sequence[Sequence[int]]) -> list[list[int]]:
        """Greedy answers, in the order of the rows."""
        answers: list[list[int]] = [[]] * len(prompts)
        with tqdm(total=len(prompts), desc="generating", unit="row") as bar:
            for rows in length_batches([len(prompt) + self._longest for prompt in prompts], self._batch_tokens):
                with scoring_errors():
                    said = self._answer([prompts[row] for row in rows])
                for row, ids in zip(rows, said, strict=True):
                    answers[row] = until(ids, self._ends)
                bar.update(len(rows))
        return answers

    @torch.inference_mode()
    def _answer(self, prompts: Sequence[Sequence[int]]) -> list[list[int]]:
        width = max(map(len, prompts))
        pad = self._ends[0]  # hidden by the mask before a prompt, cut off behind an answer
        ids = torch.tensor([[pad] * (width - len(prompt)) + list(prompt) for prompt in prompts])
        mask = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts])
        device = self._model.get_input_embeddings().weight.device
        said = self._model.generate(
            input_ids=ids.to(device),
            attention_mask=mask.to(device),
            max_new_tokens=self._longest,
            do_sample=False,
            num_beams=1,
            temperature=None,
            top_p=None,
            top_k=None,
            repetition_penalty=1.0,
            eos_token_id=self._ends,
            pad_token_id=pad,
        )
        return said[:, width:].tolist()


class LlamaCppGenerator:
    """Greedy generation on a GGUF file, one row after the other.

    Args:
        model: the opened file.
        ends: token ids that end a turn.
        longest: tokens after which an answer is cut.
    """

    def __init__(self, model: "LlamaCpp", ends: Sequence[int], *, longest: int) -> None:
        self._model = model
        self._ends = list(ends)
        self._longest = longest

    def generate(self, prompts: Sequence[Sequence[int]]) -> list[list[int]]:
        """Greedy answers, in the order of the rows."""
        return [until(self._answer(prompt), self._ends) for prompt in tqdm(prompts, desc="generating", unit="row")]

    def _answer(self, prompt: Sequence[int]) -> list[int]:
        settings = {"max_tokens": self._longest, "samplers": ["top_k"], "top_k": 1, "cache_prompt": True}
        return self._model.generate(prompt, **settings)


@contextmanager
def open_generator(model: str, run: RunFolder, recipe: Recipe, encoder: PromptEncoder) -> Iterator[Generator]:
    """Load `model` (see `RunFolder.model_label`) into the engine that can let it speak.

    Raises:
        ModelError: it cannot be loaded, or the adapter does not fit the base.
    """
    longest = max(map(len, encoder.label_ids.values())) + _BEYOND_LABELS
    if model.endswith(".gguf"):
        from toolkit.decoding.engines import refuse_other_gguf
        from toolkit.decoding.llama_cpp import LlamaCpp

        context_length = recipe.model.max_seq_length + _BEYOND_LABELS
        with LlamaCpp(Path(model), context_length=context_length, sequences=1) as opened:
            refuse_other_gguf(opened, run)
            yield LlamaCppGenerator(opened, encoder.ends, longest=longest)
        return
    from toolkit.decoding.engines import load_torch_model

    budget = recipe.evaluation.batch_tokens
    budget = _BATCH_TOKENS if budget == "auto" else budget
    opened = load_torch_model(model, run, recipe)
    yield TorchGenerator(opened, encoder.ends, longest=longest, batch_tokens=budget)


def _own_ends(model: Any) -> list[int]:
    """The ids in the model's generation config; of a GGUF, llama.cpp heeds those by itself."""
    ids = model.generation_config.eos_token_id
    return ids if isinstance(ids, list) else [] if ids is None else [ids]


def until(ids: Sequence[int], ends: Sequence[int]) -> list[int]:
    """The ids before the first that ends a turn; all of them where none does."""
    return list(ids[: next((i for i, token in enumerate(ids) if token in ends), len(ids))])


def match_verbalizer(text: str, verbalizers: Mapping[str, str]) -> str | None:
    """The label whose verbalizer is the whole answer, white space around it aside; None where it is none."""
    return next((label for label, words in verbalizers.items() if words.strip() == text.strip()), None)
