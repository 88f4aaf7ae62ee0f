"""Scores labels with an encoder and its trained head: rows of like length together, one forward pass each."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from tqdm.auto import tqdm

from toolkit.batching.sampling import length_batches
from toolkit.errors import RecipeError
from toolkit.model.backend import DEVICE, DataCollatorWithPadding
from toolkit.model.encoder import load_encoder_for_scoring
from toolkit.model.files import find_base
from toolkit.model.loading import precision_for
from toolkit.model.precision import Precision
from toolkit.pairs import EncodedPair, PairEncoder
from toolkit.recipe import Recipe
from toolkit.recipe_file import load_recipe
from toolkit.run_folder import RunFolder

_BATCH_TOKENS = {"cuda": 16_384, "cpu": 2_048}


class EncoderScorer:
    """Log-probabilities of the labels under a sequence classification model.

    Args:
        model: with its head, in evaluation mode.
        tokenizer: pads the rows.
        precision: what the model computes in, as it was trained.
        batch_tokens: padded tokens per forward pass; changes speed and memory alone.
    """

    def __init__(self, model: Any, tokenizer: Any, precision: Precision, *, batch_tokens: int) -> None:
        self._model = model
        self._pad = DataCollatorWithPadding(tokenizer)
        self._precision = precision
        self._batch_tokens = batch_tokens
        self.show_progress = True

    def score(self, rows: Sequence[EncodedPair]) -> np.ndarray:
        """Score rows.

        Returns:
            [rows, labels] natural logarithms, float64, in the order of the rows.
        """
        scores = np.full((len(rows), self._model.config.num_labels), np.nan)
        with tqdm(total=len(rows), desc="scoring", unit="row", disable=not self.show_progress) as bar:
            for chosen in length_batches([len(row) for row in rows], self._batch_tokens):
                scores[chosen] = self._log_probs([rows[i] for i in chosen])
                bar.update(len(chosen))
        return scores

    @torch.inference_mode()
    def _log_probs(self, rows: Sequence[EncodedPair]) -> np.ndarray:
        inputs: Any = self._pad([row.inputs() for row in rows])
        half = self._precision.dtype
        with torch.autocast(DEVICE, dtype=half, enabled=half != torch.float32):
            logits = self._model(**inputs.to(DEVICE)).logits
        return logits.double().log_softmax(dim=-1).cpu().numpy()


def open_encoder(run: RunFolder, recipe: Recipe, encoder: PairEncoder) -> EncoderScorer:
    """Load a run's encoder with its adapter and head.

    Raises:
        RecipeError: the labels are not those, in the order, that the head was trained on.
        ModelError: it cannot be loaded, or the adapter does not fit the base.
    """
    trained = load_recipe(run.recipe).task.labels
    if encoder.labels != trained:
        raise RecipeError(
            f"task.labels is {list(encoder.labels)}, but the head of {run.path} has the outputs {list(trained)}.",
            hint="Leave task.labels as the run's recipe.yaml has it; map other names with data.label_map.",
        )
    precision = precision_for(recipe)
    model = load_encoder_for_scoring(find_base(run, recipe), recipe, precision, run.adapter)
    budget = recipe.evaluation.batch_tokens
    budget = _BATCH_TOKENS[DEVICE] if budget == "auto" else budget
    return EncoderScorer(model, encoder.tokenizer, precision, batch_tokens=budget)
