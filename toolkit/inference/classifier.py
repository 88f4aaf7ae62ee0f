"""A model of a run that stays loaded: rows in, labels, probabilities or free answers out."""

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property
from types import TracebackType
from typing import Any, Protocol, Self

import numpy as np
from scipy.special import softmax

from toolkit.data.example import Example
from toolkit.data.inputs import read_pairs
from toolkit.errors import DataError, RunError
from toolkit.inference.checks import check_finite, scoring_errors
from toolkit.inference.label_trie import LabelTrie
from toolkit.inference.loading import Scorer, load_torch_model, open_scorer, score, torch_scorer
from toolkit.prompts.encoder import EncodedRow, PromptEncoder
from toolkit.prompts.sentence_pairs import EncodedPair, PairEncoder, RowEncoder, row_encoder
from toolkit.prompts.tokenizer import load_tokenizer
from toolkit.runs.model_ref import ModelRef
from toolkit.runs.trained_run import TrainedRun
from toolkit.utils.progress import Progress, show_progress


@dataclass(frozen=True)
class LabelScores:
    """A model's scores of rows, in their order.

    Args:
        labels: the classes.
        decoded: the label of each row.
        log_likelihoods: [rows, labels], natural logarithms, finite, not normalized over the labels.
    """

    labels: tuple[str, ...]
    decoded: list[str]
    log_likelihoods: np.ndarray


class _LabelScorer(Protocol):
    def label_scores(self, rows: Sequence[Any], first_row: int) -> LabelScores: ...


class TrieLabelScorer:
    """A decoder under constraint: a label is a path of the trie.

    Args:
        scorer: scores the trie's edges.
        trie: the labels.
    """

    def __init__(self, scorer: Scorer, trie: LabelTrie) -> None:
        self._scorer = scorer
        self._trie = trie

    def label_scores(self, rows: Sequence[EncodedRow], first_row: int = 1) -> LabelScores:
        """Score rows; `decoded` is greedy, the likeliest allowed token at each branch."""
        edges = score(self._scorer, [row.prompt for row in rows], first_row=first_row)
        return LabelScores(self._trie.labels, self._trie.greedy(edges), self._trie.label_log_probs(edges))


class HeadLabelScorer:
    """An encoder: a label is an output of its head, and the likeliest one is the answer.

    Args:
        scorer: an `inference.encoder_scorer.EncoderScorer`.
        labels: the head's outputs, in order.
    """

    def __init__(self, scorer: Any, labels: tuple[str, ...]) -> None:
        self._scorer = scorer
        self._labels = labels

    def label_scores(self, rows: Sequence[EncodedPair], first_row: int = 1) -> LabelScores:
        """Score rows; on a tie `decoded` is the label that the recipe names first."""
        with scoring_errors():
            scores = self._scorer.score(rows)
        check_finite(scores, first_row)
        return LabelScores(self._labels, [self._labels[i] for i in scores.argmax(axis=1)], scores)


class Classifier:
    """A model of a run, with scikit-learn's verbs; its weights are loaded when the first row is scored, and stay.

    Args:
        run: a finished run, with the recipe to use.
        model: which of its models.
        shots: solved examples that stand before each row, for the base model.
        temperature: divides log-likelihoods; 1 leaves probabilities as the model gives them.
        progress: whether and how the verbs report their progress.

    Raises:
        ToolkitError: the tokenizer cannot be read, or the recipe does not fit it.
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
        if not model.gguf:
            import toolkit.models.backend  # noqa: F401 - Unsloth comes before transformers, which the tokenizer imports
        self.run = run
        self.model = model
        self.temperature = temperature
        self.classes_: tuple[str, ...] = tuple(run.recipe.task.labels)
        self.encoder: RowEncoder = row_encoder(load_tokenizer(run.folder.adapter), run.recipe, shots)
        self._progress = progress
        self._stack = ExitStack()
        self._scorer: _LabelScorer | None = None
        self._generator: Any = None

    def predict(self, rows: Any) -> list[str]:
        """Return the label of each row, decoded under constraint.

        Args:
            rows: tuples (premise, hypothesis), dictionaries, or a DataFrame; see `data.inputs`.

        Raises:
            DataError: naming the rows that hold no two texts, or do not fit.
            ModelError: the model cannot be loaded, or its scores are no numbers.
        """
        return self._score_inputs(rows).decoded

    def predict_proba(self, rows: Any) -> np.ndarray:
        """Return the probability of each label, float64 [rows, labels], in the order of `classes_`; see `predict`."""
        return self.probabilities(self._score_inputs(rows).log_likelihoods)

    def score(self, rows: Any, labels: Sequence[str]) -> float:
        """Return the accuracy on labelled rows; see `predict`.

        Raises:
            DataError: as `predict`, or there are more or fewer labels than rows.
        """
        predicted = self.predict(rows)
        if len(predicted) != len(labels):
            raise DataError(f"There are {len(predicted)} rows and {len(labels)} labels.", hint="Give one for each row.")
        return (
            float(np.mean([prediction == label for prediction, label in zip(predicted, labels, strict=True)]))
            if predicted
            else float("nan")
        )

    def generate(self, rows: Any) -> list[str]:
        """Return what the model writes for each row, greedily and without constraint; see `predict`.

        Raises:
            RunError: the model is an encoder, which does not write.
        """
        with show_progress(self._progress):
            return self.free_answers(self.encode(rows))

    def encode(self, rows: Any) -> list[Any]:
        """Return rows as token ids; the arguments and errors are those of `predict`."""
        encoded, problems = [], []
        for number, pair in enumerate(read_pairs(rows, self.run.recipe.data.columns), 1):
            try:
                encoded.append(self.encoder.question(*pair))
            except DataError as error:
                problems.append(f"row {number} {error}")
        if problems:
            more = f" ({len(problems)} rows do not fit)" if len(problems) > 1 else ""
            raise DataError(
                f"{'; '.join(problems[:3])}{more}.", hint="Shorten the texts, or raise model.max_seq_length."
            )
        return encoded

    def probabilities(self, log_likelihoods: np.ndarray) -> np.ndarray:
        """Normalize [rows, labels] log-likelihoods over the labels, with the classifier's temperature."""
        if not len(log_likelihoods):
            return np.zeros((0, len(self.classes_)))
        return softmax(log_likelihoods / self.temperature, axis=1)

    def label_scores(self, rows: Sequence[Any], *, first_row: int = 1) -> LabelScores:
        """Score rows of `encoder`.

        Args:
            rows: as token ids.
            first_row: the number of the first row in its file, for messages.

        Raises:
            ModelError: the model cannot be loaded, or its scores are no numbers.
        """
        if not rows:
            return LabelScores(self.classes_, [], np.zeros((0, len(self.classes_))))
        return self._load_scorer().label_scores(rows, first_row)

    def free_answers(self, rows: Sequence[Any]) -> list[str]:
        """Return the model's own words for rows of `encoder`; a special token within an answer is part of its text.

        Raises:
            ModelError: the model cannot be loaded.
            RunError: it is an encoder, which does not write.
        """
        encoder = self._prompt_encoder()
        return [encoder.decode(ids) for ids in self._load_generator().generate([row.prompt for row in rows])]

    def load(self, mode: str = "constrained") -> None:
        """Load the weights now rather than with the first row, to score (constrained) or to write (free)."""
        if mode == "free":
            self._load_generator()
        else:
            self._load_scorer()

    def close(self) -> None:
        """Free the model's memory; the next row that is scored loads it again."""
        self._stack.close()
        self._scorer = self._generator = None
        self.__dict__.pop("_torch_model", None)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _score_inputs(self, rows: Any) -> LabelScores:
        with show_progress(self._progress):
            return self.label_scores(self.encode(rows))

    @cached_property
    def _torch_model(self) -> Any:
        return load_torch_model(self.run, self.model)

    def _prompt_encoder(self) -> PromptEncoder:
        if isinstance(self.encoder, PairEncoder):
            raise RunError("Free mode needs a model that writes text, but this run's model.kind is encoder.")
        return self.encoder

    def _load_scorer(self) -> _LabelScorer:
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
        """llama.cpp allocates keys and values for one way of asking: to score and to write, it is opened anew."""
        if self.model.gguf:
            self.close()

    def _open_scorer(self) -> _LabelScorer:
        if isinstance(self.encoder, PairEncoder):
            from toolkit.inference.encoder_scorer import open_encoder

            return HeadLabelScorer(open_encoder(self.run, self.encoder), self.classes_)
        trie = LabelTrie(self.encoder.label_ids)
        if self.model.gguf:
            return TrieLabelScorer(self._stack.enter_context(open_scorer(self.run, self.model, trie)), trie)
        return TrieLabelScorer(torch_scorer(self._torch_model, self.run.recipe, trie), trie)

    def _open_generator(self) -> Any:
        from toolkit.inference.generation import open_gguf_generator, torch_generator

        encoder = self._prompt_encoder()
        if self.model.gguf:
            return self._stack.enter_context(open_gguf_generator(self.run, self.model, encoder))
        return torch_generator(self._torch_model, self.run.recipe, encoder)
