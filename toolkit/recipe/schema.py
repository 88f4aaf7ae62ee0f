"""The recipe: a frozen, validated description of a task, its data, its model, its training and its export."""

from typing import Annotated, Any, Literal, cast

from pydantic import Field, ValidationError, model_validator
from pydantic_core import InitErrorDetails

from toolkit.recipe.data_section import DataSection, Source
from toolkit.recipe.inputs import RowColumns, find_columns_errors, find_placeholder_error, input_names, merge_columns
from toolkit.recipe.labels import (
    find_equal,
    find_label_errors,
    find_label_map_errors,
    find_merge_errors,
    normalize_text,
    respell_keys,
)
from toolkit.recipe.model_kind import DECODER_AUTO_TARGETS, FULL_LEARNING_RATE, ModelKind, find_kind_errors
from toolkit.recipe.section import Auto, Count, Fraction, GgufType, Labels, LoraSize, Names, Section
from toolkit.recipe.training_checks import find_training_errors
from toolkit.recipe.training_section import TrainingSection


class TaskSection(Section):
    """The classification task and the wording of its prompt."""

    labels: Labels = Field(description="The classes. Tables and reports list them in this order.")
    verbalizers: dict[str, str] = Field(
        default_factory=dict, description="The text that the model writes for each label; default: the label itself."
    )
    system: str | None = Field(
        default=None, description="The instruction (system message); null sends none. A decoder requires this key."
    )
    user: str = Field(
        default="{premise}\n{hypothesis}",
        description="The user's message; its placeholders, e.g. {text}, name a row's inputs. Required for a decoder.",
    )
    truncate: str | None = Field(
        default=None, description="The input whose end is cut off in rows that are too long; null: the first input."
    )
    chat_template: str | None = Field(
        default=None, description="A chat template as Jinja text or a file's path; null: the tokenizer's own."
    )
    date_string: str | None = Field(
        default="26 Jul 2024",
        description="The date that Llama 3.x templates print; fixed so that prompts do not change daily.",
    )

    @model_validator(mode="before")
    @classmethod
    def _default_verbalizers(cls, values: Any) -> Any:
        # A default cannot depend on another field, so it is filled in before validation; given verbalizers override it.
        if isinstance(values, dict) and isinstance(labels := values.get("labels"), (list, tuple)):
            verbalizers = values.get("verbalizers", {str(label): str(label) for label in labels})
            if isinstance(verbalizers, dict):
                verbalizers = respell_keys(verbalizers, labels)
            values = {**values, "verbalizers": verbalizers}
        return values

    @model_validator(mode="after")
    def _check(self) -> "TaskSection":
        # `loading` splits each message into the key and the text at the first ": ".
        if mistakes := find_label_errors(self.labels):
            raise ValueError(f"task.labels: {mistakes[0]}")
        if set(self.verbalizers) != set(self.labels):
            raise ValueError(
                f"task.verbalizers: its keys are {sorted(self.verbalizers)}, but the labels are {sorted(self.labels)}; "
                "give one verbalizer for each label"
            )
        if pair := find_equal(self.verbalizers.values(), normalize_text):
            raise ValueError(
                f"task.verbalizers: {pair[0]!a} and {pair[1]!a} are the same text, so an answer could mean two "
                "labels; give each label its own"
            )
        if any(not text.strip() for text in self.verbalizers.values()):
            raise ValueError(
                "task.verbalizers: a verbalizer is blank, so the model could not write it; give each label a word"
            )
        if mistake := find_placeholder_error(self.user):
            raise ValueError(f"task.user: {mistake}")
        if self.truncate is not None and self.truncate not in self.inputs:
            raise ValueError(
                f"task.truncate: {self.truncate!r} is not an input of task.user; choose from {', '.join(self.inputs)}"
            )
        return self

    @property
    def inputs(self) -> tuple[str, ...]:
        """The names of a row's inputs: the placeholders of `user`, in order; see `recipe.inputs.input_names`."""
        return input_names(self.user)

    @property
    def truncated_input(self) -> str:
        """The input whose end is cut off in rows that are too long."""
        return self.truncate or self.inputs[0]


class ModelSection(Section):
    """The base model and the way it is loaded."""

    name: str = Field(min_length=1, description="A model id on the Hub, a local folder, or embedded:tiny-llama-fr.")
    kind: ModelKind = Field(
        default="decoder",
        description="decoder: the model writes the label; encoder: a trained classification head predicts it.",
    )
    revision: str | None = Field(
        default=None, description="A branch, tag or commit on the Hub; null: the default branch."
    )
    load_in_4bit: bool = Field(
        default=False, description="Load the weights in 4 bits to save memory (QLoRA: NF4, double quantization)."
    )
    dtype: Literal["auto", "bfloat16", "float16", "float32"] = Field(
        default="auto",
        description="auto: bfloat16 if the GPU or CPU multiplies it in hardware; else float16 (GPU) or float32 (CPU).",
    )
    max_seq_length: Annotated[int, Field(ge=8, le=2**20)] = Field(
        default=384, description="Maximum tokens per row. A longer row loses the end of task.truncate's input."
    )


class LoraSection(Section):
    """The LoRA adapter."""

    r: LoraSize = Field(default=16, description="The rank of the adapter's matrices; a higher rank can learn more.")
    alpha: LoraSize = Field(default=32, description="The adapter's output is multiplied by alpha / r.")
    dropout: Fraction = Field(
        default=0.05, description="Dropout on the adapter's input; 0 lets Unsloth use its fused kernels on a GPU."
    )
    target_modules: Auto | Annotated[Names, Field(min_length=1)] = Field(
        default="auto",
        description="Linear layers that get an adapter; auto: a decoder's attention, an encoder's queries and values.",
    )
    use_rslora: bool = Field(default=False, description="Multiply by alpha / sqrt(r) instead (arXiv 2312.03732).")
    use_dora: bool = Field(default=False, description="Train a weight-decomposed adapter (arXiv 2402.09353); slower.")

    @model_validator(mode="before")
    @classmethod
    def _default_targets(cls, values: Any) -> Any:
        # All families of decoders name their layers alike, so for them `auto` is resolved here. `Recipe` passes `auto`
        # explicitly for an encoder, whose layers are known only with its model.
        return {"target_modules": DECODER_AUTO_TARGETS, **values} if isinstance(values, dict) else values


class EvaluationSection(Section):
    """The evaluation of the model."""

    batch_tokens: Auto | Count = Field(
        default="auto", description="Tokens per forward pass; fewer need less memory. Shared prefixes count once."
    )
    baselines: bool = Field(
        default=True, description="Compare with random guesses, the majority class and bag-of-words classifiers."
    )
    slice_by: Names = Field(default=(), description="Columns by which to break down the accuracy, e.g. [genre].")
    merge_labels: dict[str, Names] = Field(
        default_factory=dict,
        description="Labels to measure as one, e.g. {other: [neutral, contradiction]}: their probabilities are added.",
    )


class ExportSection(Section):
    """The export to GGUF files."""

    gguf: Annotated[tuple[GgufType, ...], Field(strict=False, min_length=1)] = Field(
        default=("q8_0",), description="File types to write. q4_k_m, q5_k_m and q6_k need llama.cpp's quantizer."
    )


class Recipe(Section):
    """A complete recipe. The descriptions of its fields are used in --help, the documentation and the JSON Schema."""

    task: TaskSection = Field(description="The classification task and the wording of its prompt.")
    data: DataSection = Field(description="The training rows and the evaluation rows.")
    model: ModelSection = Field(description="The base model and the way it is loaded.")
    lora: LoraSection | None = Field(
        default=LoraSection(), description="The LoRA adapter; null trains all weights of an encoder instead."
    )
    training: TrainingSection = Field(default=TrainingSection(), description="The training of the adapter.")
    evaluation: EvaluationSection = Field(default=EvaluationSection(), description="The evaluation of the model.")
    export: ExportSection = Field(default=ExportSection(), description="The export to GGUF files.")
    seed: Annotated[int, Field(ge=0, lt=2**32)] = Field(
        default=42, description="Seed of the data order, the calibration split and the initial weights."
    )

    @model_validator(mode="before")
    @classmethod
    def _kind_defaults(cls, values: Any) -> Any:
        """Fill in the defaults that depend on model.kind, and on whether there is an adapter."""
        if not isinstance(values, dict) or not isinstance(model := values.get("model"), dict):
            return values
        lora, training = values.get("lora", {}), values.get("training", {})
        is_encoder = model.get("kind") == "encoder"
        if isinstance(lora, dict) and lora.get("target_modules", "auto") == "auto":
            return {**values, "lora": {**lora, "target_modules": "auto" if is_encoder else DECODER_AUTO_TARGETS}}
        if lora is None and isinstance(training, dict):
            return {**values, "training": {"learning_rate": FULL_LEARNING_RATE, **training}}
        return values

    @model_validator(mode="before")
    @classmethod
    def _evaluate_on_a_share(cls, values: Any) -> Any:
        # With eval_share both sources are the same, so that no other code has to distinguish the two cases.
        data = values.get("data") if isinstance(values, dict) else None
        if isinstance(data, dict) and data.get("eval_share") and data.get("eval") is None and "train" in data:
            train = data["train"]
            if isinstance(train, dict):
                train = {key: value for key, value in train.items() if key != "limit"}
            values = {**values, "data": {**data, "eval": train}}
        return values

    @property
    def decoder_lora(self) -> LoraSection:
        """The LoRA section of a decoder's recipe, which always has one."""
        return cast(LoraSection, self.lora)

    def columns_of(self, source: Source) -> RowColumns:
        """Return the columns of a source that hold the inputs, the label and the id of a row."""
        return merge_columns(self.task.inputs, self.data.columns, source.columns)

    @model_validator(mode="after")
    def _check(self) -> "Recipe":
        mistakes = find_kind_errors(self)
        sources: dict[str, DataSection | Source] = {
            "data": self.data,
            "data.train": self.data.train,
            "data.eval": self.data.eval,
        }
        if self.data.dev is not None:
            sources["data.dev"] = self.data.dev
        for name, source in sources.items():
            # Evaluation rows can have the name of a merged label, see `EvaluationSection.merge_labels`.
            merged = () if name in ("data.train", "data.dev") else self.evaluation.merge_labels
            label_mistakes = find_label_map_errors(source.label_map or {}, (*self.task.labels, *merged))
            mistakes += [f"{name}.label_map: {mistake}" for mistake in label_mistakes]
            column_mistakes = find_columns_errors(source.columns, self.task.inputs)
            mistakes += [f"{name}.columns: {mistake}" for mistake in column_mistakes]
        merge_mistakes = find_merge_errors(self.evaluation.merge_labels, self.task.labels)
        mistakes += [f"evaluation.merge_labels: {mistake}" for mistake in merge_mistakes]
        if self.data.eval_share and not self.data.shares_rows:
            mistakes.append("data.eval_share: has no effect next to another data.eval; leave it out or set it to 0")
        mistakes += find_training_errors(self)
        if unknown := [name for name in self.training.group_by_inputs if name not in self.task.inputs]:
            mistakes.append(
                f"training.group_by: {unknown[0]!r} is not an input of task.user; choose from "
                f"{', '.join(self.task.inputs)}"
            )
        if mistakes:
            # Raising a ValueError would report only the first mistake.
            raise ValidationError.from_exception_data(
                "Recipe",
                [
                    InitErrorDetails(type="value_error", input=None, ctx={"error": ValueError(mistake)})
                    for mistake in mistakes
                ],
            )
        return self
