"""Which engine scores: torch for the adapter, the base and the merged model, llama.cpp for a GGUF."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from toolkit.decoding.gguf_file import refuse_other_vocabulary
from toolkit.decoding.label_trie import LabelTrie
from toolkit.errors import ModelError
from toolkit.out_of_memory import scoring_errors
from toolkit.prompts import load_tokenizer
from toolkit.recipe import Recipe
from toolkit.run_folder import RunFolder

if TYPE_CHECKING:
    from toolkit.decoding.llama_cpp import LlamaCpp


class Scorer(Protocol):
    """What every engine does: prompts' token ids in, [rows, edges] log-probabilities of the trie's edges out."""

    show_progress: bool
    """Whether each call shows a bar of its own; true unless the caller has one."""

    def score(self, prompts: list[tuple[int, ...]]) -> np.ndarray:
        """Natural logarithms under the full vocabulary, float64, in the order of the rows."""
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
    refuse_non_finite(scores, first_row)
    return scores


def refuse_non_finite(scores: np.ndarray, first_row: int = 1) -> None:
    """Refuse [rows, ...] scores that are no numbers.

    Raises:
        ModelError: naming the first such rows.
    """
    broken = np.flatnonzero(~np.isfinite(scores).all(axis=1)) + first_row
    if len(broken):
        raise ModelError(
            f"The model's scores of {len(broken)} rows are no numbers; row {', '.join(map(str, broken[:3]))}.",
            hint="Its weights or its precision are at fault: look into train_log.jsonl, or set model.dtype: float32.",
        )


@contextmanager
def open_scorer(model: str, run: RunFolder, recipe: Recipe, trie: LabelTrie) -> Iterator[Scorer]:
    """Load `model` (see `RunFolder.model_label`) into the engine that can score it.

    Raises:
        ModelError: it cannot be loaded, or the adapter does not fit the base.
    """
    if model.endswith(".gguf"):
        from toolkit.decoding.llama_cpp_scorer import LlamaCppScorer

        with LlamaCppScorer(Path(model), trie, context_length=recipe.model.max_seq_length) as scorer:
            refuse_other_gguf(scorer.model, run)
            yield scorer
        return
    from toolkit.decoding.torch_scorer import TorchScorer
    from toolkit.model.backend import DEVICE

    yield TorchScorer(load_torch_model(model, run, recipe), trie, batch_tokens=scoring_nodes(recipe, DEVICE))


def scoring_nodes(recipe: Recipe, device: str) -> int:
    """Nodes of a scoring tree on a device, cpu or cuda; a CPU has no use for more rows at once."""
    from toolkit.batching.sampling import LARGEST_TREE

    nodes = recipe.evaluation.batch_tokens
    return nodes if nodes != "auto" else LARGEST_TREE if device == "cuda" else 512


def refuse_other_gguf(opened: "LlamaCpp", run: RunFolder) -> None:
    """Refuse a GGUF file whose token ids are not those of the run.

    Raises:
        ModelError: it has another vocabulary.
    """
    refuse_other_vocabulary(opened.gguf, opened.header, load_tokenizer(run.adapter).get_vocab())


def load_torch_model(model: str, run: RunFolder, recipe: Recipe) -> Any:
    """The adapter, base or merged model of a run, in evaluation mode.

    Raises:
        ModelError: it cannot be loaded, or the adapter does not fit the base.
    """
    from toolkit.model.files import checked_folder, find_base
    from toolkit.model.loading import load_for_scoring, precision_for

    if model == "merged":
        recipe = recipe.model_copy(update={"model": recipe.model.model_copy(update={"load_in_4bit": False})})
    folder = checked_folder(run.merged) if model == "merged" else find_base(run, recipe)
    adapter = run.adapter if model == "adapter" else None
    return load_for_scoring(folder, recipe, precision_for(recipe), adapter)
