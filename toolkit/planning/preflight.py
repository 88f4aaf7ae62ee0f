"""The checks of a recipe before weights are loaded: rows, tokens, parameters, and examples as the model reads them."""

import hashlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np

from toolkit.data.duplicates import NearDuplicates, find_near_duplicates
from toolkit.data.examples import with_task_labels
from toolkit.data.splits import Splits, load_splits
from toolkit.inference.label_trie import LabelTrie
from toolkit.models.backend import DEVICE, device_name
from toolkit.models.encoder import count_encoder_parameters, load_encoder_tokenizer
from toolkit.models.encoder_head import HeadStart, plan_head
from toolkit.models.loading import resolve_precision
from toolkit.models.model_folder import fetch_weights as download_weights
from toolkit.models.model_folder import find_model, hub_commit
from toolkit.models.model_support import check_supported
from toolkit.models.parameters import ParameterCount, check_max_seq_length, count_parameters, model_config
from toolkit.models.precision import Precision
from toolkit.planning.model_checks import check_revision, check_token_ids, check_tracker, find_export_problem
from toolkit.planning.row_report import describe_balance, describe_splits
from toolkit.prompts.prompt_tokenizer import EncodedRow, PromptTokenizer
from toolkit.prompts.sentence_pairs import EncodedPair, RowTokenizer, make_row_tokenizer
from toolkit.prompts.tokenizer import load_tokenizer
from toolkit.recipe.inputs import name_texts
from toolkit.recipe.schema import LoraSection, Recipe
from toolkit.utils.formatting import format_bytes, join_names
from toolkit.utils.terminal import escape_control_characters

RowT = TypeVar("RowT", EncodedRow, EncodedPair)
_HIGHEST_FULL_RATE = 1e-4
_GREEN, _GRAY, _PLAIN = "\033[1;32m", "\033[90m", "\033[0m"


@dataclass(frozen=True)
class TokenStatistics:
    """Statistics of the tokens per row (prompt and completion) and of the target tokens (those in the loss)."""

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
        """Compute the statistics of encoded rows. `loss_on` is the key of the recipe."""
        lengths, trained = np.array([len(row) for row in rows]), np.array([row.count_targets(loss_on) for row in rows])
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
    """A checked recipe: everything that training needs except the weights.

    Args:
        recipe: The recipe.
        folder: The folder of the base model.
        splits: The checked rows.
        row_tokenizer: The converter of rows to token ids.
        train_rows: The training rows as token ids.
        dev_rows: The dev rows as token ids. Empty if the recipe has none.
        tokens: Statistics of the training rows.
        scored_tokens: Statistics of the calibration set, the dev rows and the evaluation rows.
        parameters: The number of parameters of the base model and the adapter, and the layers that have one.
        precision: The precision of weights and activations.
        duplicates: The near-duplicates among the rows.
        export_problem: The reason why the trained model cannot be exported to GGUF. None if nothing speaks against it.
    """

    recipe: Recipe
    folder: Path
    splits: Splits
    row_tokenizer: RowTokenizer
    train_rows: list[RowT]
    dev_rows: list[RowT]
    tokens: TokenStatistics
    scored_tokens: TokenStatistics
    parameters: ParameterCount
    precision: Precision
    duplicates: NearDuplicates
    export_problem: str | None = None

    @cached_property
    def head(self) -> HeadStart | None:
        """The values that the output layer of an encoder's head starts from. None for a decoder."""
        is_encoder = self.recipe.model.kind == "encoder"
        return plan_head(self.config, self.recipe.task.labels) if is_encoder else None

    @property
    def lora(self) -> LoraSection | None:
        """The recipe's LoRA section with the names of the target modules. None if all weights are trained."""
        lora = self.recipe.lora
        if lora is None or lora.target_modules != "auto":
            return lora
        return lora.model_copy(update={"target_modules": self.parameters.target_modules})

    @cached_property
    def config(self) -> Any:
        """The configuration of the base model."""
        return model_config(self.folder)

    def record(self) -> dict[str, Any]:
        """Return the results for run.json."""
        return {
            "device": device_name(),
            "model": {
                "name": self.recipe.model.name,
                "folder": str(self.folder),
                "commit": hub_commit(self.folder),
                **({"head": asdict(self.head)} if self.head else {}),
            },
            "precision": asdict(self.precision),
            "data": self.splits.record(self.recipe),
            "near_duplicates": self.duplicates.record(),
            "tokens": asdict(self.tokens),
            "tokens_sha256": self.tokens_sha256,
            "scored_tokens": asdict(self.scored_tokens),
            "trainable_parameters": self.parameters.trainable,
            "total_parameters": self.parameters.total,
            "weight_bytes": self.weight_bytes,
            "target_modules": list(self.parameters.target_modules),
        }

    @property
    def tokens_sha256(self) -> str:
        """The SHA-256 digest of the training rows as token ids.

        It changes with the data, the prompt, the date in the prompt, the chat template and the tokenizer.
        """
        digest = hashlib.sha256()
        for row in self.train_rows:
            digest.update(repr(row).encode())  # the repr of EncodedRow is part of the digest and must not change
        return digest.hexdigest()

    @property
    def longest_row(self) -> int:
        """The tokens of the longest row of all splits, because any of them can be scored."""
        return max(self.tokens.longest, self.scored_tokens.longest)

    @property
    def weight_bytes(self) -> int:
        """The bytes of base model and adapter on this device."""
        return self.parameters.weight_bytes(self.precision, load_in_4bit=self.recipe.model.load_in_4bit)

    def report(self) -> str:
        """Return the results as text for a terminal."""
        recipe: Recipe = self.recipe
        tokens = self.tokens
        counted = "answer" if recipe.training.objective == "labels" else "target"
        quantization = "4-bit, computing in " if recipe.model.load_in_4bit else ""
        lines = [
            f"device      {device_name()}" + (" (one GPU per process)" if DEVICE == "cuda" else ""),
            f"precision   {quantization}{self.precision.name}: {self.precision.reason}",
            f"model       {recipe.model.name}: {self.parameters}, {format_bytes(self.weight_bytes)} of weights",
            *describe_splits(recipe, self.splits),
            f"duplicates  {self.duplicates.describe(recipe.task.inputs)}",
            f"tokens      {tokens.shortest} to {tokens.longest} per row, median {tokens.median}, 95th percentile "
            f"{tokens.p95}; {tokens.trained_per_row:g} {counted} tokens per row",
        ]
        shortened = {"training": tokens.shortened_rows, "dev": sum(row.shortened for row in self.dev_rows)}
        shortened["evaluation"] = self.scored_tokens.shortened_rows - shortened["dev"]
        lines += [
            f"truncated   the {name_texts(recipe.task.truncated_input)} of {rows} {split} rows are cut to fit "
            f"model.max_seq_length {recipe.model.max_seq_length}"
            for split, rows in shortened.items()
            if rows
        ]
        lines += [*describe_balance(recipe, self.splits), *self._training_notes()]
        if self.head:
            lines.append(f"head        {self.head}")
        if self.export_problem and recipe.model.kind == "decoder":
            lines.append(f"export      not possible: {self.export_problem}")
        if warning := recipe.training.chat_warning:
            lines.append(f"WARNING     {warning}")
        return escape_control_characters("\n".join(lines))

    def _training_notes(self) -> list[str]:
        recipe, lora = self.recipe, self.recipe.lora
        if lora is None and recipe.training.learning_rate > _HIGHEST_FULL_RATE:
            return [
                f"WARNING     training.learning_rate {recipe.training.learning_rate:g} is high for lora: null; "
                "training of all weights usually takes 2e-5 to 5e-5"
            ]
        if lora is not None and lora.target_modules == "auto":
            return [f"adapter     lora.target_modules: auto takes {join_names(self.parameters.target_modules)}"]
        if lora is not None and lora.dropout and DEVICE == "cuda" and recipe.model.kind == "decoder":
            return ["dropout     lora.dropout above 0 disables Unsloth's fused LoRA kernels; 0 is faster"]
        return []

    def examples(self, *, color: bool) -> str:
        """Return two training rows with different labels as text, with the target tokens in color or in brackets."""
        labels = [example.label for example in self.splits.train]
        second = next((i for i, label in enumerate(labels) if label != labels[0]), len(labels) - 1)
        return "\n\n".join(self._example(i, color) for i in dict.fromkeys((0, second)))

    def _example(self, index: int, color: bool) -> str:
        row: Any = self.train_rows[index]  # encoded by this row_tokenizer, so their types match
        read_text, trained_text = map(
            escape_control_characters, self.row_tokenizer.decode_row(row, self.recipe.training.loss_on)
        )
        return f"{_GRAY}{read_text}{_GREEN}{trained_text}{_PLAIN}" if color else f"{read_text}[{trained_text}]"


def run_preflight(
    recipe: Recipe,
    *,
    fetch_weights: bool = False,
    recorded_precision: Precision | None = None,
    base: Path | None = None,
    tokenizer: Path | None = None,
) -> Preflight:
    """Check the data, tokenizer and model configuration of a recipe.

    Args:
        recipe: The recipe to check.
        fetch_weights: Whether to download the weights of a model from the Hub as well.
        recorded_precision: The precision that a resumed run was started with. `model.dtype: auto` keeps it if the
            device supports it.
        base: The folder of the base model, if it is not where the recipe says.
        tokenizer: The folder of the tokenizer. Defaults to that of the base model.

    Raises:
        ToolkitError: If the recipe does not fit the data or the model.
    """
    check_tracker(recipe)
    # Data first: an error in it is reported before a model is downloaded.
    splits = load_splits(recipe)
    folder = base or find_model(recipe.model.name, recipe.model.revision, weights=False)
    if base is None:
        check_revision(recipe, folder)
    check_supported(folder, recipe)  # before gigabytes of weights are downloaded
    if fetch_weights and base is None:
        download_weights(recipe.model.name, folder)
    # Before the tokenizer, which reads config.json, too, but would not name it in an error.
    precision = resolve_precision(recipe, folder, recorded_precision)
    row_tokenizer = make_row_tokenizer(_load_tokenizer(recipe, tokenizer or folder, folder), recipe)
    parameters = _check_model(folder, recipe, row_tokenizer)
    train_rows = row_tokenizer.encode(splits.train)
    dev_rows = row_tokenizer.encode(splits.dev)
    # Fails before training if a row cannot be scored.
    other_rows = row_tokenizer.encode([*splits.calibration_set, *with_task_labels(recipe, splits.eval)])
    scored_rows = [*dev_rows, *other_rows]
    check_token_ids(folder, row_tokenizer, [*train_rows, *scored_rows])
    return Preflight(
        recipe=recipe,
        folder=folder,
        splits=splits,
        row_tokenizer=row_tokenizer,
        train_rows=train_rows,
        dev_rows=dev_rows,
        tokens=TokenStatistics.from_rows(train_rows, recipe.training.loss_on),
        scored_tokens=TokenStatistics.from_rows(scored_rows, recipe.training.loss_on),
        parameters=parameters,
        precision=precision,
        # The calibration set counts as training rows here.
        duplicates=find_near_duplicates([*splits.train, *splits.calibration_set], splits.eval, splits.dev),
        export_problem=find_export_problem(folder, row_tokenizer, max(map(len, [*train_rows, *scored_rows]))),
    )


def _load_tokenizer(recipe: Recipe, tokenizer: Path, model: Path) -> Any:
    return load_encoder_tokenizer(tokenizer, model) if recipe.model.kind == "encoder" else load_tokenizer(tokenizer)


def _check_model(folder: Path, recipe: Recipe, row_tokenizer: RowTokenizer) -> ParameterCount:
    """Count the parameters, and check before training that the model can score the labels."""
    if isinstance(row_tokenizer, PromptTokenizer):
        check_max_seq_length(folder, recipe)
        LabelTrie(row_tokenizer.label_ids)  # fails if two labels have the same tokens
        return count_parameters(folder, recipe.decoder_lora)
    return count_encoder_parameters(folder, recipe)
