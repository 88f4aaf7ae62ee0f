"""What can be known before any weight is loaded: rows, tokens, parameters, and an example as the model will read it."""

import hashlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np

from toolkit.data.duplicates import NearDuplicates, find_near_duplicates
from toolkit.data.examples import label_counts
from toolkit.data.splits import Splits, load_splits
from toolkit.inference.label_trie import LabelTrie
from toolkit.models.backend import DEVICE, device_name
from toolkit.models.encoder import count_encoder_parameters
from toolkit.models.loading import precision_for
from toolkit.models.model_folder import find_model, hub_commit
from toolkit.models.parameters import ParameterCount, count_parameters, model_config
from toolkit.models.precision import Precision
from toolkit.prompts.encoder import EncodedRow, PromptEncoder
from toolkit.prompts.sentence_pairs import EncodedPair, RowEncoder, row_encoder
from toolkit.prompts.tokenizer import load_tokenizer
from toolkit.recipe.schema import Recipe
from toolkit.utils.terminal import escape_control_characters

RowT = TypeVar("RowT", EncodedRow, EncodedPair)
_GREEN, _GREY, _PLAIN = "\033[1;32m", "\033[90m", "\033[0m"


@dataclass(frozen=True)
class TokenStatistics:
    """Tokens per row, prompt and answer together, and how many predictions are trained."""

    rows: int
    shortest: int
    median: int
    p95: int
    longest: int
    total: int
    trained_total: int
    trained_per_row: float
    shortened_rows: int

    @classmethod
    def from_rows(cls, rows: Sequence[EncodedRow] | Sequence[EncodedPair], loss_on: str) -> "TokenStatistics":
        """Count over encoded rows; `loss_on` as in the recipe."""
        lengths, trained = np.array([len(row) for row in rows]), np.array([row.trained(loss_on) for row in rows])
        return cls(
            rows=len(rows),
            shortest=int(lengths.min()),
            median=int(np.median(lengths)),
            p95=int(np.percentile(lengths, 95)),
            longest=int(lengths.max()),
            total=int(lengths.sum()),
            trained_total=int(trained.sum()),
            trained_per_row=round(float(trained.mean()), 2),
            shortened_rows=sum(row.shortened for row in rows),
        )


@dataclass(frozen=True)
class Preflight(Generic[RowT]):
    """Everything that training needs but the weights, and what was found out about it.

    `tokens` are those of the training rows, `scored_tokens` of the rows held back and of the evaluation rows.
    """

    recipe: Recipe
    folder: Path
    splits: Splits
    encoder: RowEncoder
    train_rows: list[RowT]
    tokens: TokenStatistics
    scored_tokens: TokenStatistics
    parameters: ParameterCount
    precision: Precision
    duplicates: NearDuplicates

    @cached_property
    def config(self) -> Any:
        """The base model's configuration; read once."""
        return model_config(self.folder)

    def record(self) -> dict[str, Any]:
        """The findings, for run.json."""
        return {
            "device": device_name(),
            "model": {
                "name": self.recipe.model.name,
                "folder": str(self.folder),
                "commit": hub_commit(self.folder),
            },
            "precision": asdict(self.precision),
            "data": self.splits.record(self.recipe),
            "near_duplicates": asdict(self.duplicates),
            "tokens": asdict(self.tokens),
            "tokens_sha256": self.tokens_sha256,
            "scored_tokens": asdict(self.scored_tokens),
            "trainable_parameters": self.parameters.trainable,
            "total_parameters": self.parameters.total,
            "weight_bytes": self.weight_bytes,
        }

    @property
    def tokens_sha256(self) -> str:
        """Of the training rows as token ids: data, prompt, the date in it, chat template and tokenizer decide it."""
        digest = hashlib.sha256()
        for row in self.train_rows:
            digest.update(repr(row).encode())
        return digest.hexdigest()

    @property
    def longest_row(self) -> int:
        """Tokens of the longest row that is trained on or scored; an evaluation may be of either."""
        return max(self.tokens.longest, self.scored_tokens.longest)

    @property
    def weight_bytes(self) -> int:
        """Memory of base and adapter on the device."""
        return self.parameters.weight_bytes(self.precision, load_in_4bit=self.recipe.model.load_in_4bit)

    def report(self) -> str:
        """The findings as text for a terminal."""
        recipe, tokens, overlap = self.recipe, self.tokens, self.splits.overlap
        quantization = "4-bit, computing in " if recipe.model.load_in_4bit else ""
        lines = [
            f"device      {device_name()}" + (" (one GPU per process)" if DEVICE == "cuda" else ""),
            f"precision   {quantization}{self.precision.name}: {self.precision.reason}",
            f"model       {recipe.model.name}: {self.parameters}, {self.weight_bytes / 1e9:.2f} GB of weights",
            f"train       {_format_counts(label_counts(recipe, self.splits.train))}",
            f"eval        {_format_counts(label_counts(recipe, self.splits.eval))}",
            f"overlap     {overlap.premises} premises, {overlap.hypotheses} hypotheses, {overlap.pairs} pairs",
            f"duplicates  {self.duplicates}",
            f"tokens      {tokens.shortest} to {tokens.longest} per row, median {tokens.median}, 95 % at most "
            f"{tokens.p95}; {tokens.trained_per_row:g} trained per row",
        ]
        if self.splits.calibration_set:
            lines.insert(
                4, f"held back   {_format_counts(label_counts(recipe, self.splits.calibration_set))}, for calibration"
            )
        shortened = {"training": tokens.shortened_rows, "evaluation": self.scored_tokens.shortened_rows}
        lines += [
            f"shortened   {rows} {split} rows lose the end of their premise to fit "
            f"model.max_seq_length {recipe.model.max_seq_length}"
            for split, rows in shortened.items()
            if rows
        ]
        if recipe.lora.dropout and DEVICE == "cuda" and recipe.model.kind == "decoder":
            lines.append("dropout     lora.dropout above 0 leaves Unsloth's fused LoRA kernels; 0 is faster")
        return escape_control_characters("\n".join(lines))

    def examples(self, *, color: bool) -> str:
        """Two training rows of different labels as text, trained tokens coloured, or in brackets without colour."""
        labels = [example.label for example in self.splits.train]
        second = next((i for i, label in enumerate(labels) if label != labels[0]), len(labels) - 1)
        return "\n\n".join(self._example(i, color) for i in dict.fromkeys((0, second)))

    def _example(self, index: int, color: bool) -> str:
        row: Any = self.train_rows[index]  # of this very encoder
        read_text, trained_text = map(escape_control_characters, self.encoder.show(row, self.recipe.training.loss_on))
        return f"{_GREY}{read_text}{_GREEN}{trained_text}{_PLAIN}" if color else f"{read_text}[{trained_text}]"


def _format_counts(counts: dict[str, int]) -> str:
    return f"{sum(counts.values()):,} rows: " + ", ".join(f"{count:,} {label}" for label, count in counts.items())


def run_preflight(recipe: Recipe, *, weights: bool = False, recorded: Precision | None = None) -> Preflight:
    """Check data, tokenizer and configuration of a recipe.

    Args:
        recipe: what to check.
        weights: also fetch the weights of a hub model.
        recorded: the precision that a resumed run began with; `model.dtype: auto` keeps it on any machine.

    Raises:
        ToolkitError: whatever of the recipe cannot work with the data or the model.
    """
    splits = load_splits(recipe)
    folder = find_model(recipe.model.name, recipe.model.revision, weights=weights)
    precision = precision_for(recipe, recorded)
    encoder = row_encoder(load_tokenizer(folder), recipe)
    parameters = _check_model(folder, recipe, encoder)
    train_rows = encoder.encode(splits.train)
    scored_rows = encoder.encode([*splits.calibration_set, *splits.eval])  # refuses rows that could not be scored
    return Preflight(
        recipe=recipe,
        folder=folder,
        splits=splits,
        encoder=encoder,
        train_rows=train_rows,
        tokens=TokenStatistics.from_rows(train_rows, recipe.training.loss_on),
        scored_tokens=TokenStatistics.from_rows(scored_rows, recipe.training.loss_on),
        parameters=parameters,
        precision=precision,
        duplicates=find_near_duplicates([*splits.train, *splits.calibration_set], splits.eval),
    )


def _check_model(folder: Path, recipe: Recipe, encoder: RowEncoder) -> ParameterCount:
    """Count parameters; refuse, before any training, what could not be scored or read."""
    if isinstance(encoder, PromptEncoder):
        LabelTrie(encoder.label_ids)  # refuses labels that could not be told apart
        return count_parameters(folder, recipe.lora)
    return count_encoder_parameters(folder, recipe)
