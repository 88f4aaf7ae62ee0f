"""The engines that score and write: torch for the adapter, the base and the merged model, llama.cpp for a GGUF."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from toolkit.inference.checks import check_finite, scoring_errors
from toolkit.inference.gguf_file import check_vocabulary
from toolkit.inference.label_trie import LabelTrie
from toolkit.prompts.tokenizer import load_tokenizer
from toolkit.recipe.schema import Recipe
from toolkit.runs.model_ref import ModelRef
from toolkit.runs.trained_run import TrainedRun

if TYPE_CHECKING:
    from toolkit.inference.llama_cpp import LlamaCpp

_CPU_NODES = 512
"""Nodes of a scoring tree on a CPU, which has no use for more rows at once."""


class Scorer(Protocol):
    """Every engine: prompts' token ids in, [rows, edges] log-probabilities of the trie's edges out."""

    def score(self, prompts: list[tuple[int, ...]]) -> np.ndarray:
        """Return natural logarithms under the full vocabulary, float64, in the order of the rows."""
        ...


def score(scorer: Scorer, prompts: list[tuple[int, ...]], *, first_row: int = 1) -> np.ndarray:
    """Score rows and check that each score is a number.

    Args:
        scorer: the engine.
        prompts: token ids of each row up to the answer.
        first_row: the number of the first row in its file, for the message.

    Raises:
        DeviceMemoryError: memory does not hold a forward pass.
        ModelError: naming the first rows whose scores are none.
    """
    with scoring_errors():
        scores = scorer.score(prompts)
    check_finite(scores, first_row)
    return scores


@contextmanager
def open_scorer(run: TrainedRun, model: ModelRef, trie: LabelTrie) -> Iterator[Scorer]:
    """Load a model of a run into the engine that can score it.

    Raises:
        ModelError: it cannot be loaded, or the adapter does not fit the base.
    """
    if model.gguf:
        from toolkit.inference.llama_cpp_scorer import LlamaCppScorer

        with LlamaCppScorer(model.gguf, trie, context_length=run.recipe.model.max_seq_length) as scorer:
            check_gguf_vocabulary(scorer.model, run)
            yield scorer
        return
    yield torch_scorer(load_torch_model(run, model), run.recipe, trie)


def torch_scorer(model: Any, recipe: Recipe, trie: LabelTrie) -> Scorer:
    """Return the scorer of a loaded torch model."""
    from toolkit.inference.torch_scorer import TorchScorer
    from toolkit.models.backend import DEVICE

    return TorchScorer(model, trie, batch_tokens=scoring_nodes(recipe, DEVICE))


def scoring_nodes(recipe: Recipe, device: str) -> int:
    """Return the nodes of a scoring tree on a device, cpu or cuda."""
    from toolkit.batching.sampling import LARGEST_TREE  # here, since it imports torch, which a GGUF does without

    nodes = recipe.evaluation.batch_tokens
    return nodes if nodes != "auto" else LARGEST_TREE if device == "cuda" else _CPU_NODES


def check_gguf_vocabulary(model: "LlamaCpp", run: TrainedRun) -> None:
    """Refuse a GGUF file whose token ids are not those of the run.

    Raises:
        ModelError: it has another vocabulary.
    """
    check_vocabulary(model.gguf, model.header, load_tokenizer(run.folder.adapter).get_vocab())


def load_torch_model(run: TrainedRun, model: ModelRef) -> Any:
    """Load the adapter, base or merged model of a run, in evaluation mode.

    Raises:
        ModelError: it cannot be loaded, or the adapter does not fit the base.
    """
    from toolkit.models.loading import load_for_scoring, precision_for
    from toolkit.models.model_folder import checked_folder, find_base

    recipe = run.recipe
    if model.name == "merged":
        recipe = recipe.model_copy(update={"model": recipe.model.model_copy(update={"load_in_4bit": False})})
    folder = checked_folder(run.folder.merged) if model.name == "merged" else find_base(run)
    adapter = run.folder.adapter if model.name == "adapter" else None
    return load_for_scoring(folder, recipe, precision_for(recipe), adapter)
