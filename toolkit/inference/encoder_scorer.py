"""Scores labels with an encoder and its trained head: rows of like length together, one forward pass each."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from toolkit.batching.sampling import length_batches
from toolkit.errors import RecipeError
from toolkit.models.backend import DEVICE, DataCollatorWithPadding
from toolkit.models.encoder import load_encoder_for_scoring
from toolkit.models.loading import precision_for
from toolkit.models.model_folder import find_base
from toolkit.models.precision import Precision
from toolkit.prompts.sentence_pairs import EncodedPair, PairEncoder
from toolkit.runs.trained_run import TrainedRun
from toolkit.utils.progress import progress_bar

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

    def score(self, rows: Sequence[EncodedPair]) -> np.ndarray:
        """Score rows.

        Returns:
            [rows, labels] natural logarithms, float64, in the order of the rows.
        """
        scores = np.full((len(rows), self._model.config.num_labels), np.nan)
        with progress_bar(total=len(rows), desc="scoring", unit="row") as bar:
            for indices in length_batches([len(row) for row in rows], self._batch_tokens):
                scores[indices] = self._log_probs([rows[i] for i in indices])
                bar.update(len(indices))
        return scores

    @torch.inference_mode()
    def _log_probs(self, rows: Sequence[EncodedPair]) -> np.ndarray:
        inputs: Any = self._pad([row.inputs() for row in rows])
        dtype = self._precision.dtype
        with torch.autocast(DEVICE, dtype=dtype, enabled=dtype != torch.float32):
            logits = self._model(**inputs.to(DEVICE)).logits
        return logits.double().log_softmax(dim=-1).cpu().numpy()


def open_encoder(run: TrainedRun, encoder: PairEncoder) -> EncoderScorer:
    """Load a run's encoder with its adapter and head.

    Raises:
        RecipeError: the labels are not those, in the order, that the head was trained on.
        ModelError: it cannot be loaded, or the adapter does not fit the base.
    """
    outputs = run.saved_recipe.task.labels
    if encoder.labels != outputs:
        raise RecipeError(
            f"task.labels is {list(encoder.labels)}, but the head of {run.path} has the outputs {list(outputs)}.",
            hint="Leave task.labels as the run's recipe.yaml has it; map other names with data.label_map.",
        )
    precision = precision_for(run.recipe)
    model = load_encoder_for_scoring(find_base(run), run.recipe, precision, run.folder.adapter)
    batch_tokens = run.recipe.evaluation.batch_tokens
    batch_tokens = _BATCH_TOKENS[DEVICE] if batch_tokens == "auto" else batch_tokens
    return EncoderScorer(model, encoder.tokenizer, precision, batch_tokens=batch_tokens)
