"""A classifier that keeps a model of a run loaded and returns labels, probabilities or generated text."""

from collections.abc import Sequence
from contextlib import ExitStack
from functools import cached_property
from types import TracebackType
from typing import Any, Self

import numpy as np
from scipy.special import softmax

from toolkit.data.example import Example
from toolkit.data.inputs import read_inputs, read_labels
from toolkit.errors import DataError, RunError
from toolkit.inference.checks import warn_of_truncation
from toolkit.inference.label_scorers import HeadLabelScorer, LabelScorer, LabelScores, TrieLabelScorer
from toolkit.inference.label_trie import LabelTrie
from toolkit.inference.loading import load_torch_model, make_torch_scorer, open_scorer
from toolkit.prompts.prompt_tokenizer import PromptTokenizer
from toolkit.prompts.sentence_pairs import PairTokenizer, RowTokenizer, make_row_tokenizer
from toolkit.prompts.tokenizer import load_tokenizer
from toolkit.runs.model_ref import ModelRef
from toolkit.runs.trained_run import TrainedRun
from toolkit.utils.progress import Progress, show_progress

_CHUNK_ROWS = {"cuda": 2_048, "cpu": 256}
"""The number of rows of a file to score in one call: enough for several trees, and few because an interruption loses
them."""


class Classifier:
    """A model of a run with the methods of a scikit-learn classifier.

    The weights are loaded when the first row is scored, and stay loaded until `close`.

    Args:
        run: A finished run, with the recipe to use.
        model: The model of the run.
        shots: Few-shot examples to put before each row, for few-shot prompting of the base model.
        temperature: The divisor of the log-likelihoods (temperature scaling). 1 leaves probabilities unchanged.
        progress: Whether to show progress bars, or a callback.

    Raises:
        ToolkitError: If the tokenizer cannot be read, or does not fit the recipe.
    """

    def __init__(
        self,
        run: TrainedRun,
        model: ModelRef = ModelRef("adapter"),  # noqa: B008 - frozen
        *,
        shots: Sequence[Example] = (),
        temperature: float = 1.0,
        progress: Progress = False,
    ) -> None:
        device = "cpu"
        if not model.gguf:
            # Unsloth must be imported before the tokenizer imports transformers.
            from toolkit.models.backend import DEVICE as device
        self.chunk_rows = _CHUNK_ROWS[device]
        """The number of rows of a file to score in one call. It affects scores only through rounding."""
        self.run = run
        self.model = model
        self.temperature = temperature
        self.classes_: tuple[str, ...] = tuple(run.recipe.task.labels)
        self.row_tokenizer: RowTokenizer = make_row_tokenizer(load_tokenizer(run.folder.adapter), run.recipe, shots)
        self._progress = progress
        self._stack = ExitStack()
        self._scorer: LabelScorer | None = None
        self._generator: Any = None

    def predict(self, rows: Any) -> list[str]:
        """Return the label of each row, found by constrained decoding.

        Args:
            rows: Texts if the task has a single input, tuples such as (premise, hypothesis), dictionaries, or a
                DataFrame; see `data.inputs`.

        Raises:
            DataError: If a row lacks an input, or is too long. The message names the first such rows.
            ModelError: If the model cannot be loaded, or returns NaN or inf.
        """
        return self._score_rows(rows).decoded

    def predict_proba(self, rows: Any) -> np.ndarray:
        """Return the probability of each label, float64 [rows, labels], in the order of `classes_`; see `predict`."""
        return self.to_probabilities(self._score_rows(rows).log_likelihoods)

    def score(self, rows: Any, labels: Sequence[str]) -> float:
        """Return the accuracy on labeled rows; see `predict`.

        Raises:
            DataError: As in `predict`, if a value is not a label, or if the numbers of rows and labels differ.
        """
        gold = read_labels(labels, self.run.recipe)
        predicted = self.predict(rows)
        if len(predicted) != len(gold):
            raise DataError(f"There are {len(predicted)} rows but {len(gold)} labels.", hint="Give one label per row.")
        return (
            float(np.mean([prediction == label for prediction, label in zip(predicted, gold, strict=True)]))
            if predicted
            else float("nan")
        )

    def generate(self, rows: Any) -> list[str]:
        """Return the text that the model generates for each row, greedily and without constraints; see `predict`.

        Raises:
            RunError: If the model is an encoder, which cannot generate text.
        """
        with show_progress(self._progress):
            return self.generate_answers(self.encode(rows))

    def encode(self, rows: Any) -> list[Any]:
        """Return rows as token ids, with a logged warning if texts were truncated; otherwise as `predict`."""
        recipe = self.run.recipe
        encoded, problems = [], []
        for number, inputs in enumerate(read_inputs(rows, recipe), 1):
            try:
                encoded.append(self.row_tokenizer.encode_unlabeled(inputs))
            except DataError as error:
                problems.append(f"row {number} {error}")
        if problems:
            total = f" ({len(problems)} rows are too long)" if len(problems) > 1 else ""
            raise DataError(
                f"{'; '.join(problems[:3])}{total}.", hint="Shorten the texts, or raise model.max_seq_length."
            )
        warn_of_truncation(encoded, recipe.model.max_seq_length, recipe.task.truncated_input)
        return encoded

    def to_probabilities(self, log_likelihoods: np.ndarray) -> np.ndarray:
        """Normalize log-likelihoods, [rows, labels], over the labels with the classifier's temperature."""
        if not len(log_likelihoods):
            return np.zeros((0, len(self.classes_)))
        return softmax(log_likelihoods / self.temperature, axis=1)

    def score_labels(self, rows: Sequence[Any], *, first_row: int = 1) -> LabelScores:
        """Score encoded rows.

        Args:
            rows: The output of `encode`.
            first_row: The number of the first row in its file, for messages.

        Raises:
            ModelError: If the model cannot be loaded, or returns NaN or inf.
        """
        if not rows:
            return LabelScores(self.classes_, [], np.zeros((0, len(self.classes_))))
        return self._load_scorer().score_labels(rows, first_row)

    def generate_answers(self, rows: Sequence[Any]) -> list[str]:
        """Return the text that the model generates for encoded rows, including special tokens within an answer.

        Raises:
            ModelError: If the model cannot be loaded.
            RunError: If the model is an encoder, which cannot generate text.
        """
        row_tokenizer = self._require_prompt_tokenizer()
        return [
            row_tokenizer.decode_answer(ids) for ids in self._load_generator().generate([row.prompt for row in rows])
        ]

    def load(self, mode: str = "constrained") -> None:
        """Load the weights now instead of with the first row, for scoring (constrained) or generation (free)."""
        if mode == "free":
            self._load_generator()
        else:
            self._load_scorer()

    def close(self) -> None:
        """Free the model's memory. The next call loads the model again."""
        self._stack.close()
        self._scorer = self._generator = None
        self.__dict__.pop("_torch_model", None)  # where cached_property stores its value

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _score_rows(self, rows: Any) -> LabelScores:
        with show_progress(self._progress):
            return self.score_labels(self.encode(rows))

    @cached_property
    def _torch_model(self) -> Any:
        return load_torch_model(self.run, self.model)

    def _require_prompt_tokenizer(self) -> PromptTokenizer:
        if isinstance(self.row_tokenizer, PairTokenizer):
            raise RunError("Free mode needs a model that generates text, but this run's model.kind is encoder.")
        return self.row_tokenizer

    def _load_scorer(self) -> LabelScorer:
        if self._scorer is None:
            self._release_gguf()
            self._scorer = self._open_scorer()
        return self._scorer

    def _load_generator(self) -> Any:
        if self._generator is None:
            self._release_gguf()
            self._generator = self._open_generator()
        return self._generator

    def _release_gguf(self) -> None:
        """Close the GGUF file before it is opened for scoring or generation."""
        # llama.cpp fixes the number of sequences, and so the size of its KV cache, when it opens a file. Scoring uses
        # several sequences and generation one, so the file is opened again.
        if self.model.gguf:
            self.close()

    def _open_scorer(self) -> LabelScorer:
        if isinstance(self.row_tokenizer, PairTokenizer):
            from toolkit.inference.encoder_scorer import load_encoder_scorer

            return HeadLabelScorer(load_encoder_scorer(self.run, self.row_tokenizer), self.classes_)
        trie = LabelTrie(self.row_tokenizer.label_ids)
        if self.model.gguf:
            return TrieLabelScorer(self._stack.enter_context(open_scorer(self.run, self.model, trie)), trie)
        return TrieLabelScorer(make_torch_scorer(self._torch_model, self.run.recipe, trie), trie)

    def _open_generator(self) -> Any:
        from toolkit.inference.generation import make_torch_generator, open_gguf_generator

        row_tokenizer = self._require_prompt_tokenizer()
        if self.model.gguf:
            return self._stack.enter_context(open_gguf_generator(self.run, self.model, row_tokenizer))
        return make_torch_generator(self._torch_model, self.run.recipe, row_tokenizer)
