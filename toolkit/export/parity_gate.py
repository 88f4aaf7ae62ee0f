"""The parity gate: exported models must answer evaluation rows like the adapter they were made from."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from toolkit.data.example import Example
from toolkit.data.examples import with_task_labels
from toolkit.evaluation.intervals import wilson_interval
from toolkit.evaluation.merged_labels import MergedLabels
from toolkit.export.agreement import Agreement, compare_scores, label_probabilities
from toolkit.export.chat_tokens import compare_chat_tokens
from toolkit.inference.label_trie import LabelTrie
from toolkit.inference.llama_cpp_scorer import LlamaCppScorer
from toolkit.inference.loading import open_scorer, score_prompts
from toolkit.models.gguf_types import FILE_TYPES
from toolkit.prompts.prompt_tokenizer import EncodedRow, PromptTokenizer
from toolkit.recipe.section import GgufType
from toolkit.runs.model_ref import ModelRef
from toolkit.runs.trained_run import TrainedRun
from toolkit.utils.terminal import escape_control_characters

Verify = int | Literal["all"]
MIN_AGREEMENT, MIN_AGREEMENT_BELOW_8_BIT = 0.99, 0.95
_NEAR_TIE, _NEAR_TIE_BELOW_8_BIT = 0.2, 1.0  # nats: odds of 55 to 45, and of 73 to 27
# Mean over edges, in nats. Rounding to bfloat16 in either model shifts scores by far less.
_MAX_ROUNDING_SHIFT = 0.1
_SPOT_CHECK_ROWS = 32  # enough to tell whether two models are the same
_SHOWN_DISAGREEMENTS = 5
"""The number of disagreements per model that the terminal shows, clearest first. parity.json lists all of them."""


@dataclass(frozen=True)
class Parity:
    """The result of comparing a model with the adapter.

    The model passes if there are no `reasons` to refuse it. `min_agreement` is None if no agreement is required.
    """

    model: str
    file: str | None
    agreement: Agreement
    min_agreement: float | None
    different_tokens: int | None
    reasons: tuple[str, ...]

    @property
    def verdict(self) -> Literal["passed", "refused"]:
        """The decision of the gate."""
        return "refused" if self.reasons else "passed"

    def record(self) -> dict[str, Any]:
        """Return the model's entry in parity.json."""
        agreement = self.agreement
        return {
            "model": self.model,
            "file": self.file,
            "rows": agreement.rows,
            "equal": agreement.equal,
            "agreement": agreement.share,
            "min_agreement": self.min_agreement,
            "accuracy": agreement.accuracy,
            "accuracy_ci95": list(agreement.accuracy_ci95),
            "probability_difference": {"mean": agreement.mean_difference, "max": agreement.largest_difference},
            "different_tokens": self.different_tokens,
            "verdict": self.verdict,
            "reasons": list(self.reasons),
            "disagreements": [
                {("adapter" if key == "reference" else key): value for key, value in asdict(disagreement).items()}
                for disagreement in agreement.disagreements
            ],
        }


class ParityGate:
    """A comparison of exported models with the adapter, on rows that the adapter scores once.

    Args:
        run: The run.
        prompt_tokenizer: The run's tokenizer, chat template, and task.
        examples: The rows to compare on. See `choose_rows`.
        min_agreement: The smallest acceptable share of equal predictions. None means 0.99 for file types of 8 bits or
            more and 0.95 below.
    """

    def __init__(
        self,
        run: TrainedRun,
        prompt_tokenizer: PromptTokenizer,
        examples: Sequence[Example],
        min_agreement: float | None,
    ) -> None:
        self.examples = list(examples)
        self.results: list[Parity] = []
        self._run = run
        self.prompt_tokenizer = prompt_tokenizer
        self._rows: list[EncodedRow] = prompt_tokenizer.encode(with_task_labels(run.recipe, self.examples))
        self._is_correct = MergedLabels.of(run.recipe).is_correct
        self._trie = LabelTrie(prompt_tokenizer.label_ids)
        self._min_agreement = min_agreement
        self._merged_share = 1.0
        self._adapter_scores = self._torch_scores("adapter", len(self._rows))
        # The base model's scores reveal an export from which the adapter is missing.
        self._base_scores = self._torch_scores("base", _SPOT_CHECK_ROWS)
        predicted = self._trie.greedy(self._adapter_scores)
        self.example = replace(self.examples[0], label=predicted[0])
        """A row with the adapter's prediction as its label."""
        self._correct = sum(
            self._is_correct(row.label, label) for row, label in zip(self.examples, predicted, strict=True)
        )

    @property
    def refused(self) -> list[Parity]:
        """The models that do not pass."""
        return [parity for parity in self.results if parity.reasons]

    def check_merged(self) -> None:
        """Compare the merged weights on disk with the adapter on its base model.

        Merging rounds once, to the base model's dtype, which flips near ties at most. A few rows are enough to check
        this. An adapter trained on 4-bit weights is merged into 16-bit weights, which can change its answers. All rows
        are then compared to report by how much, but the difference is not a reason to refuse the export.
        """
        was_4bit = self._run.recipe.model.load_in_4bit
        scores = self._torch_scores("merged", len(self._rows) if was_4bit else _SPOT_CHECK_ROWS)
        agreement = self._compare(scores, _NEAR_TIE)
        mean_shift = float(np.abs(scores - self._adapter_scores[: len(scores)]).mean())
        shift_reason = (
            f"its log-probabilities differ from the adapter's by {mean_shift:.3f} nats on average, but rounding "
            f"explains at most {_MAX_ROUNDING_SHIFT}"
            if mean_shift > _MAX_ROUNDING_SHIFT and not was_4bit
            else ""
        )
        self._merged_share = agreement.share
        self._add_result("merged", None, agreement, None, None, [self._wrong_model_reason(scores), shift_reason])

    def check_gguf(self, file_type: GgufType, file: Path) -> None:
        """Compare a GGUF file's answers with the adapter's, and the token ids of a chat request with the run's."""
        is_at_least_8_bit = FILE_TYPES[file_type].is_at_least_8_bit
        min_agreement = self._min_agreement
        if min_agreement is None:
            min_agreement = MIN_AGREEMENT if is_at_least_8_bit else MIN_AGREEMENT_BELOW_8_BIT
        with LlamaCppScorer(file, self._trie, context_length=self._run.recipe.model.max_seq_length) as scorer:
            scores = score_prompts(scorer, [row.prompt for row in self._rows])
        different_tokens, tokens_reason = compare_chat_tokens(file, self.prompt_tokenizer, self.examples, self._rows)
        agreement = self._compare(scores, _NEAR_TIE if is_at_least_8_bit else _NEAR_TIE_BELOW_8_BIT)
        reasons = [
            tokens_reason,
            self._wrong_model_reason(scores),
            _agreement_reason(agreement, min_agreement, self._merge_note()),
        ]
        self._add_result(
            f"gguf-{file_type}",
            str(file.relative_to(self._run.path)),
            agreement,
            min_agreement,
            different_tokens,
            reasons,
        )

    def record(self, data: str) -> dict[str, Any]:
        """Return the contents of parity.json; `data` names the source of the rows."""
        rows = len(self.examples)
        return {
            "reference": "adapter",
            "rows": rows,
            "data": data,
            "labels": list(self._trie.labels),
            "accuracy": self._correct / rows,
            "accuracy_ci95": list(wilson_interval(self._correct, rows)),
            "models": [parity.record() for parity in self.results],
        }

    def table(self) -> str:
        """Return the results as a table for the terminal."""
        rows, correct = len(self.examples), self._correct
        header = (
            f"{'parity':<13} {'equal':>15}  {'accuracy':<23}  {'probability: mean':>17} {'max':>7}  token ids  verdict"
        )
        lines = [
            header,
            f"{'adapter':<13} {'':>15}  {_format_accuracy(correct / rows, wilson_interval(correct, rows))}",
        ]
        for parity in self.results:
            agreement = parity.agreement
            tokens = (
                "-"
                if parity.different_tokens is None
                else f"{parity.different_tokens} differ"
                if parity.different_tokens
                else "equal"
            )
            lines.append(
                f"{parity.model:<13} {f'{agreement.equal}/{agreement.rows}':>8} {agreement.share:>6.1%}  "
                f"{_format_accuracy(agreement.accuracy, agreement.accuracy_ci95):<23}  "
                f"{agreement.mean_difference:>17.5f} {agreement.largest_difference:>7.4f}  {tokens:<9}  "
                f"{parity.verdict}"
            )
            lines += [f"  refused: {reason}" for reason in parity.reasons]
            lines += [
                f"  row {row.id}: adapter {row.reference}, model {row.model} ({row.kind}: {row.margin:.3f} nats)"
                for row in sorted(agreement.disagreements, key=lambda row: -row.margin)[:_SHOWN_DISAGREEMENTS]
            ]
        # Row ids come from the user's data.
        return escape_control_characters("\n".join(lines))

    def _torch_scores(self, model: str, rows: int) -> np.ndarray:
        with open_scorer(self._run, ModelRef.parse(model), self._trie) as scorer:
            return score_prompts(scorer, [row.prompt for row in self._rows[:rows]])

    def _merge_note(self) -> str:
        if not self._run.recipe.model.load_in_4bit:
            return ""
        return f" (the adapter was trained on 4-bit weights; agreement after merging was {self._merged_share:.1%})"

    def _compare(self, scores: np.ndarray, near_tie: float) -> Agreement:
        rows = len(scores)
        adapter_scores, is_correct = self._adapter_scores[:rows], self._is_correct
        return compare_scores(
            self.examples[:rows], self._trie, adapter_scores, scores, near_tie=near_tie, is_correct=is_correct
        )

    def _add_result(
        self,
        model: str,
        file: str | None,
        agreement: Agreement,
        min_agreement: float | None,
        different_tokens: int | None,
        reasons: list[str],
    ) -> None:
        self.results.append(
            Parity(model, file, agreement, min_agreement, different_tokens, tuple(filter(None, reasons)))
        )

    def _wrong_model_reason(self, scores: np.ndarray) -> str:
        """Return the evidence that a model is not the adapter on its base model, or "" if there is none."""
        label_scores = self._trie.label_log_probs(scores)
        rows_differ = len({row.prompt for row in self._rows[: len(scores)]}) > 1
        if not np.ptp(label_scores, axis=1).any() or (rows_differ and not np.ptp(label_scores, axis=0).any()):
            return "its label scores do not depend on the input, so its answers are meaningless"
        row_count = min(len(scores), len(self._base_scores))
        exported, base, adapter = (
            label_probabilities(self._trie, edge_scores[:row_count])
            for edge_scores in (scores, self._base_scores, self._adapter_scores)
        )
        # The factor of 2 protects adapters that change little: a coarse file type is then about as far from the adapter
        # as from the base model.
        if np.abs(exported - base).mean() < np.abs(exported - adapter).mean() / 2:
            return "it answers like the base model: the adapter is missing"
        return ""


def choose_rows(examples: Sequence[Example], verify: Verify, seed: int) -> list[Example]:
    """Choose the rows to compare on: all of them, or a random sample with the same label shares, in file order."""
    if verify == "all" or verify >= len(examples):
        return list(examples)
    random = np.random.default_rng(seed)
    labels = np.array([example.label for example in examples])
    # Each row gets its rank among the shuffled rows of its label, scaled to between 0 and 1. The rows with the smallest
    # ranks are then a sample with the label shares of all rows, for any sample size.
    relative_ranks = np.empty(len(examples))
    for label in sorted(set(labels)):
        rows = np.flatnonzero(labels == label)
        relative_ranks[rows] = (random.permutation(len(rows)) + 0.5) / len(rows)
    return [examples[row] for row in sorted(np.argsort(relative_ranks, kind="stable")[:verify].tolist())]


def _agreement_reason(agreement: Agreement, min_agreement: float, merge_note: str) -> str:
    if agreement.share >= min_agreement:
        return ""
    cause = (
        f"{agreement.clear_disagreements} differ by a clear margin: the export is broken, "
        "or the file type is far too coarse"
        if agreement.clear_disagreements
        else "all differences are near ties: the file type is too coarse for rows of which the adapter is unsure"
    )
    return (
        f"{agreement.equal} of {agreement.rows} predictions are equal, which is less than {min_agreement:.1%}; "
        f"{cause}{merge_note}"
    )


def _format_accuracy(share: float, interval: tuple[float, float]) -> str:
    return f"{share:.1%} [{interval[0]:.1%}, {interval[1]:.1%}]"
