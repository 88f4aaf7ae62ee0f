"""A label scorer for an encoder with a trained classification head."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from toolkit.batching.sampling import batch_by_length, row_length_multiple
from toolkit.errors import RecipeError
from toolkit.inference.loading import scoring_batch_tokens
from toolkit.models.backend import DEVICE, DataCollatorWithPadding
from toolkit.models.encoder import load_encoder_for_scoring, load_trained_encoder
from toolkit.models.loading import resolve_precision
from toolkit.models.model_folder import find_base
from toolkit.models.precision import Precision
from toolkit.prompts.sentence_pairs import EncodedPair, PairTokenizer
from toolkit.runs.trained_run import TrainedRun
from toolkit.utils.progress import progress_bar
from toolkit.utils.storage import folder_lock


class EncoderScorer:
    """A scorer that returns the log-probabilities of the labels under a sequence classification model.

    Args:
        model: The model with its head, in evaluation mode.
        tokenizer: The tokenizer, which pads the rows.
        precision: The precision of the computation, the same as in training.
        batch_tokens: The padded tokens per forward pass. This affects only speed and memory.
        max_length: The largest number of tokens of a row.
    """

    def __init__(self, model: Any, tokenizer: Any, precision: Precision, *, batch_tokens: int, max_length: int) -> None:
        self._model = model
        self._multiple = row_length_multiple(DEVICE, precision.dtype.itemsize, max_length)
        self._pad = DataCollatorWithPadding(tokenizer, pad_to_multiple_of=self._multiple)
        self._precision = precision
        self._batch_tokens = batch_tokens

    def score(self, rows: Sequence[EncodedPair]) -> np.ndarray:
        """Score rows.

        Returns:
            Natural logarithms, [rows, labels], float64, in the order of the rows.
        """
        # Filled with NaN, so that `check_finite` would notice a row that was never scored.
        scores = np.full((len(rows), self._model.config.num_labels), np.nan)
        with progress_bar(total=len(rows), desc="scoring", unit="row") as bar:
            lengths = [len(row) + -len(row) % self._multiple for row in rows]  # as they will be padded
            for indices in batch_by_length(lengths, self._batch_tokens):
                scores[indices] = self._log_probs([rows[i] for i in indices])
                bar.update(len(indices))
        return scores

    @torch.no_grad()  # not inference mode, see `TorchScorer._hidden`
    def _log_probs(self, rows: Sequence[EncodedPair]) -> np.ndarray:
        inputs: Any = self._pad([row.inputs() for row in rows])
        dtype = self._precision.dtype
        with torch.autocast(DEVICE, dtype=dtype, enabled=dtype != torch.float32):
            logits = self._model(**inputs.to(DEVICE)).logits
        # In float64, because the softmax of 16-bit logits would round log-probabilities to two or three digits.
        return logits.double().log_softmax(dim=-1).cpu().numpy()


def load_encoder_scorer(run: TrainedRun, pair_tokenizer: PairTokenizer) -> EncoderScorer:
    """Load a run's encoder with its adapter and head, or the complete encoder if all weights were trained.

    Raises:
        RecipeError: If the labels are not those of the head, in the same order.
        ModelError: If the model cannot be loaded, or the adapter does not fit the base model.
    """
    # The head's outputs are numbered in the order of the labels during training, which overrides may have changed.
    outputs = run.saved_recipe.task.labels
    if pair_tokenizer.labels != outputs:
        raise RecipeError(
            f"task.labels is {list(pair_tokenizer.labels)}, but the head of {run.path} has the outputs "
            f"{list(outputs)}.",
            hint="Keep task.labels as in the run's recipe.yaml. Map other names with data.label_map.",
        )
    with folder_lock(run.path, shared=True):
        run.verify_adapter()
        if run.recipe.lora is None:
            model = load_trained_encoder(run.folder.adapter, len(outputs))
            precision = resolve_precision(run.recipe, run.folder.adapter)
        else:
            base = find_base(run)
            precision = resolve_precision(run.recipe, base)
            model = load_encoder_for_scoring(base, run.recipe, precision, run.folder.adapter)
    batch_tokens = scoring_batch_tokens(run.recipe, DEVICE)
    return EncoderScorer(
        model,
        pair_tokenizer.tokenizer,
        precision,
        batch_tokens=batch_tokens,
        max_length=run.recipe.model.max_seq_length,
    )
