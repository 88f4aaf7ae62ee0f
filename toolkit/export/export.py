"""A trained run becomes files that llama.cpp runs: merge, convert, and score a few rows there."""

import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from scipy.special import softmax

from toolkit.data.checks import load_examples
from toolkit.decoding.engines import open_scorer, score
from toolkit.decoding.label_trie import LabelTrie
from toolkit.errors import ExportError
from toolkit.export.gguf import write_gguf
from toolkit.export.gguf_tokenizer import read_tokenizer
from toolkit.export.llama_config import read_config
from toolkit.model.files import find_base
from toolkit.model.merging import merge_adapter
from toolkit.prompts import PromptEncoder, load_tokenizer
from toolkit.recipe import GgufType, Recipe
from toolkit.run_folder import RunFolder

_CHECKED_ROWS = 8


def export_run(run: RunFolder, recipe: Recipe, file_types: Sequence[GgufType], *, remove_merged: bool) -> list[Path]:
    """Merge the adapter, write one GGUF per file type, and check each in llama.cpp.

    Args:
        run: a finished run.
        recipe: its recipe.
        file_types: which GGUFs to write.
        remove_merged: delete the merged 16-bit weights at the end.

    Returns:
        The files.

    Raises:
        ModelError: the adapter does not fit the base, or llama.cpp cannot load a file.
        ExportError: the model is none that can be converted, or a file scores rows as no model would.
    """
    base = find_base(run, recipe)
    # What cannot be converted is refused before gigabytes are merged.
    read_tokenizer(run.adapter, read_config(base).vocab_size)
    print(f"merging     {recipe.model.name} + adapter into {run.merged}")
    merge_adapter(base, run.adapter, run.merged)
    prompts, trie = _sample(run, recipe)
    reference = _label_probabilities("merged", run, recipe, trie, prompts)
    files = []
    for file_type in file_types:
        path = run.gguf(file_type)
        write_gguf(run.merged, path, file_type, date_string=recipe.task.date_string, name=path.stem)
        difference = np.abs(_label_probabilities(str(path), run, recipe, trie, prompts) - reference).max()
        print(
            f"{file_type:<11} {path}, {path.stat().st_size / 1e6:,.1f} MB; llama.cpp scores {len(prompts)} rows within "
            f"{difference:.4f} of the merged model's probabilities"
        )
        files.append(path)
    if remove_merged:
        shutil.rmtree(run.merged)
    return files


def _sample(run: RunFolder, recipe: Recipe) -> tuple[list[tuple[int, ...]], LabelTrie]:
    """Prompts of the first evaluation rows, and the labels to score on them."""
    examples = load_examples(recipe, recipe.data.eval)[:_CHECKED_ROWS]
    encoder = PromptEncoder(load_tokenizer(run.adapter), recipe.task, recipe.model.max_seq_length)
    return [row.prompt for row in encoder.encode(examples)], LabelTrie(encoder.label_ids)


def _label_probabilities(
    model: str, run: RunFolder, recipe: Recipe, trie: LabelTrie, prompts: list[tuple[int, ...]]
) -> np.ndarray:
    """[rows, labels], normalised over the labels."""
    with open_scorer(model, run, recipe, trie) as scorer:
        scores = trie.label_log_probs(score(scorer, prompts))
    if (np.ptp(scores, axis=1) == 0).all():
        raise ExportError(
            f"{model} gives all labels the same score, so it is not the model that was trained.",
            hint="Please report this with the recipe; the adapter itself is unharmed.",
        )
    return softmax(scores, axis=1)
