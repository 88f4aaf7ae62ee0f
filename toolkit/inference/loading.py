"""Loading of models into engines: torch for adapter, base and merged models, llama.cpp for GGUF files."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from toolkit.inference.checks import check_finite, scoring_errors
from toolkit.inference.gguf_file import check_vocabulary
from toolkit.inference.label_trie import LabelTrie
from toolkit.inference.model_seal import verify_model
from toolkit.prompts.tokenizer import load_tokenizer
from toolkit.recipe.schema import Recipe
from toolkit.runs.model_ref import ModelRef
from toolkit.runs.trained_run import TrainedRun
from toolkit.utils.storage import folder_lock

if TYPE_CHECKING:
    from toolkit.inference.llama_cpp import LlamaCpp

_CPU_NODES = 512
"""The number of nodes per scoring tree on a CPU. Larger trees are no faster there."""
_ENCODER_TOKENS = {"cuda": 16_384, "cpu": 2_048}
"""The padded tokens per forward pass of an encoder by device."""


class Scorer(Protocol):
    """The interface of an engine that scores the edges of a label trie."""

    def score(self, prompts: list[tuple[int, ...]]) -> np.ndarray:
        """Return the natural logarithms of the edges under the full vocabulary, [rows, edges], float64."""
        ...


def score_prompts(scorer: Scorer, prompts: list[tuple[int, ...]]) -> np.ndarray:
    """Score prompts and check that all scores are finite.

    Args:
        scorer: The engine.
        prompts: The token ids of each row before its answer.

    Raises:
        DeviceMemoryError: If a forward pass does not fit into memory.
        ModelError: If a score is NaN or infinite. The message names the first such rows.
    """
    with scoring_errors():
        scores = scorer.score(prompts)
    check_finite(scores)
    return scores


@contextmanager
def open_scorer(run: TrainedRun, model: ModelRef, trie: LabelTrie) -> Iterator[Scorer]:
    """Load a model of a run into the engine that scores it.

    Raises:
        ModelError: If the model cannot be loaded, or the adapter does not fit the base model.
    """
    if model.gguf:
        from toolkit.inference.llama_cpp_scorer import LlamaCppScorer

        with folder_lock(run.path, shared=True):
            verify_model(run, model)
        with LlamaCppScorer(model.gguf, trie, context_length=run.recipe.model.max_seq_length) as scorer:
            check_gguf_vocabulary(scorer.model, run)
            yield scorer
        return
    yield make_torch_scorer(load_torch_model(run, model), run.recipe, trie)


def make_torch_scorer(model: Any, recipe: Recipe, trie: LabelTrie) -> Scorer:
    """Return a scorer for a loaded torch model."""
    from toolkit.inference.torch_scorer import TorchScorer
    from toolkit.models.backend import DEVICE

    return TorchScorer(model, trie, batch_tokens=scoring_batch_tokens(recipe, DEVICE))


def scoring_batch_tokens(recipe: Recipe, device: str) -> int:
    """Return the largest number of nodes per scoring tree, or of padded tokens for an encoder, on a device.

    Args:
        recipe: The recipe.
        device: cpu or cuda.
    """
    from toolkit.batching.sampling import MAX_TREE_NODES  # imports torch, which scoring a GGUF file does not need

    batch_tokens = recipe.evaluation.batch_tokens
    if batch_tokens != "auto":
        return batch_tokens
    if recipe.model.kind == "encoder":
        return _ENCODER_TOKENS[device]
    return MAX_TREE_NODES if device == "cuda" else _CPU_NODES


def check_gguf_vocabulary(model: "LlamaCpp", run: TrainedRun) -> None:
    """Check that a GGUF file has the vocabulary of the run.

    Raises:
        ModelError: If the file has a different vocabulary.
    """
    check_vocabulary(model.gguf, model.header, load_tokenizer(run.folder.adapter).get_vocab())


def load_torch_model(run: TrainedRun, model: ModelRef) -> Any:
    """Load the adapter, base or merged model of a run in evaluation mode.

    Raises:
        ModelError: If the model cannot be loaded, or the adapter does not fit the base model.
    """
    from toolkit.models.loading import load_for_scoring, resolve_precision
    from toolkit.models.model_folder import check_model_folder, find_base

    recipe = run.recipe
    if model.name == "merged":
        # The adapter was merged into the unquantized base model, even if it was trained on 4-bit weights.
        recipe = recipe.model_copy(update={"model": recipe.model.model_copy(update={"load_in_4bit": False})})
    adapter = run.folder.adapter if model.name == "adapter" else None
    # Checked and loaded under one lock, so that no other process replaces a file in between.
    with folder_lock(run.path, shared=True):
        verify_model(run, model)
        folder = check_model_folder(run.folder.merged) if model.name == "merged" else find_base(run)
        return load_for_scoring(folder, recipe, resolve_precision(recipe, folder), adapter)
