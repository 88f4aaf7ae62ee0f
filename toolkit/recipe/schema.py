"""The recipe: a frozen, validated description of a task, its data, its model, its training and its export."""

from string import Formatter
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, NonNegativeFloat, PositiveFloat, ValidationError, model_validator
from pydantic_core import InitErrorDetails

from toolkit.recipe.labels import find_equal, find_label_errors, find_label_map_errors, respell_keys
from toolkit.recipe.model_kind import ENCODER_DEFAULT_TARGETS, LoraTarget, ModelKind, find_kind_errors

Auto = Literal["auto"]
GgufType = Literal[
    "f32", "f16", "bf16", "q8_0", "q6_k", "q5_k_m", "q5_1", "q5_0", "q4_k_m", "q4_1", "q4_0", "mxfp4", "tq2_0", "tq1_0"
]
Fraction = Annotated[float, Field(ge=0, lt=1)]
# The upper bounds are far above those of any real run: a larger number is a typo, and a loop over it would never end.
Count = Annotated[int, Field(gt=0, le=10**9)]
BatchRows = Annotated[int, Field(gt=0, le=10**6)]
LoraSize = Annotated[int, Field(gt=0, le=2**16)]
# YAML has no tuples, and pydantic's strict mode does not convert lists to tuples.
Labels = Annotated[tuple[str, ...], Field(strict=False, min_length=2)]
Names = Annotated[tuple[str, ...], Field(strict=False)]


class Section(BaseModel):
    """A section of the recipe: frozen, without unknown keys and without silent conversion of values."""

    # Strict: without it, pydantic would turn "8" into 8 and 1 into True, and hide a mistake in the recipe.
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


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
        description="The user's message, with {premise} and {hypothesis}. A decoder requires this key.",
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
        if pair := find_equal(self.verbalizers.values()):
            raise ValueError(
                f"task.verbalizers: {pair[0]!a} and {pair[1]!a} are the same text, so an answer could mean two "
                "labels; give each label its own"
            )
        if any(not text.strip() for text in self.verbalizers.values()):
            raise ValueError(
                "task.verbalizers: a verbalizer is blank, so the model could not write it; give each label a word"
            )
        try:
            placeholders = [placeholder for placeholder in Formatter().parse(self.user) if placeholder[1] is not None]
        except ValueError as error:
            raise ValueError(f"task.user: {error}; double each literal brace") from error
        # "{premise!r}" or "{premise:>9}" would alter the text, and "{premise.x}" or "{0}" could not be filled in.
        if {name for _, name, _, _ in placeholders} != {"premise", "hypothesis"} or any(
            spec or conversion for *_, spec, conversion in placeholders
        ):
            written = [
                f"{name}{'!' + conversion if conversion else ''}{':' + spec if spec else ''}"
                for _, name, spec, conversion in placeholders
            ]
            raise ValueError(f"task.user: its placeholders are {written}; use {{premise}} and {{hypothesis}}")
        return self


class Source(Section):
    """A source of rows: a dataset of the Hugging Face Hub, a local file or an embedded dataset."""

    path: str = Field(
        min_length=1,
        description="A dataset id on the Hub, a local file (.jsonl .json .csv .tsv .parquet), or embedded:nli-fr.",
    )
    name: str | None = Field(default=None, description="The configuration of a dataset on the Hub; ignored for a file.")
    split: str | None = Field(default=None, description="The split of a dataset on the Hub or of an embedded one.")
    limit: Count | None = Field(default=None, description="Use only the first N rows; null uses all rows.")


class Columns(Section):
    """The names of the data's columns."""

    premise: str = Field(default="premise", description="The column with the premise.")
    hypothesis: str = Field(default="hypothesis", description="The column with the hypothesis.")
    label: str = Field(default="label", description="The column with the label.")
    id: str | None = Field(default=None, description="The column with the row's id; null numbers the rows from 1.")


class DataSection(Section):
    """The training rows and the evaluation rows."""

    train: Source = Field(description="The training rows.")
    eval: Source = Field(description="The evaluation rows, which are never trained on.")
    columns: Columns = Field(default=Columns(), description="The names of the data's columns.")
    label_map: dict[str | int, str] | None = Field(
        default=None,
        description="Maps values in the data to labels, e.g. {0: entailment}; null: the values are the labels.",
    )
    allow_overlap: bool = Field(default=False, description="Allow rows that occur in both train and eval.")
    calibration_share: Fraction = Field(
        default=0.0,
        description="Share of the training rows, grouped by premise, held out to calibrate probabilities.",
    )


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
        description="auto: bfloat16 on a GPU that supports it or a CPU with AMX; else float16 (GPU) or float32 (CPU).",
    )
    max_seq_length: Annotated[int, Field(ge=8, le=2**20)] = Field(
        default=384, description="Maximum tokens per row. A longer row loses the end of its premise, never its label."
    )


class LoraSection(Section):
    """The LoRA adapter."""

    r: LoraSize = Field(default=16, description="The rank of the adapter's matrices; a higher rank can learn more.")
    alpha: LoraSize = Field(default=32, description="The adapter's output is multiplied by alpha / r.")
    dropout: Fraction = Field(
        default=0.05, description="Dropout on the adapter's input; 0 lets Unsloth use its fused kernels on a GPU."
    )
    target_modules: Annotated[tuple[LoraTarget, ...], Field(strict=False, min_length=1)] = Field(
        default=("q_proj", "k_proj", "v_proj", "o_proj"),
        description="The linear layers that get an adapter; for an encoder, the default is query and value.",
    )
    use_rslora: bool = Field(default=False, description="Multiply by alpha / sqrt(r) instead (arXiv 2312.03732).")
    use_dora: bool = Field(default=False, description="Train a weight-decomposed adapter (arXiv 2402.09353); slower.")


class TrainingSection(Section):
    """The training of the adapter."""

    epochs: PositiveFloat = Field(default=2.0, le=10**6, description="Number of passes over the training rows.")
    max_steps: Count | None = Field(
        default=None, description="Train for N optimizer steps and ignore epochs; null: train for the given epochs."
    )
    batch_size: BatchRows = Field(default=16, description="Rows per optimizer step, summed over all devices.")
    micro_batch_size: Auto | BatchRows = Field(
        default="auto",
        description="Rows per forward pass of a padded batch (a divisor of batch_size); fewer need less memory.",
    )
    batch_tokens: Auto | Count = Field(
        default="auto", description="Tokens per forward pass of a prefix tree; fewer need less memory."
    )
    learning_rate: PositiveFloat = Field(default=1e-4, description="The peak learning rate.")
    warmup_ratio: Fraction = Field(default=0.03, description="Share of the steps in which the learning rate rises.")
    scheduler: Literal["cosine", "linear", "constant_with_warmup"] = Field(
        default="cosine", description="The learning-rate schedule after the warmup."
    )
    weight_decay: NonNegativeFloat = Field(default=0.0, description="The decoupled weight decay of AdamW.")
    optimizer: Literal["auto", "adamw_8bit", "adamw_torch_fused", "adamw_torch"] = Field(
        default="auto", description="auto: adamw_8bit on a GPU, adamw_torch_fused on a CPU."
    )
    loss_on: Literal["completion", "full_text"] = Field(
        default="completion",
        description="completion: train on the answer only; full_text: train on the prompt and the answer.",
    )
    batching: Literal["auto", "prefix_tree", "padded"] = Field(
        default="auto",
        description="prefix_tree: compute shared beginnings of rows once; padded: pad the rows; auto: the faster one.",
    )
    group_by_premise: Auto | bool = Field(
        default="auto",
        description="Train on the rows of a premise together, so that they share more tokens; auto: in prefix trees.",
    )
    gradient_checkpointing: Auto | bool = Field(
        default="auto", description="Recompute activations to save memory, at the cost of speed; auto: only on a GPU."
    )
    save_steps: Count = Field(default=200, description="Optimizer steps between two checkpoints.")
    save_total_limit: Count = Field(default=2, description="Number of checkpoints to keep on disk.")
    report_to: Literal["none", "tensorboard", "wandb"] = Field(
        default="none", description="An experiment tracker in addition to train_log.jsonl; none: send nothing anywhere."
    )

    @model_validator(mode="after")
    def _check(self) -> "TrainingSection":
        if self.micro_batch_size != "auto" and self.batch_size % self.micro_batch_size:
            raise ValueError(
                f"training.micro_batch_size: {self.micro_batch_size} does not divide batch_size {self.batch_size}; "
                "choose a divisor"
            )
        if self.micro_batch_size != "auto" and self.batching == "prefix_tree":
            raise ValueError(
                "training.micro_batch_size: has no effect with batching prefix_tree; set batch_tokens, or leave it out"
            )
        if self.batch_tokens != "auto" and self.batching == "padded":
            raise ValueError(
                "training.batch_tokens: has no effect with batching padded; set micro_batch_size, or leave it out"
            )
        return self


class EvaluationSection(Section):
    """The evaluation of the model."""

    batch_tokens: Auto | Count = Field(
        default="auto", description="Tokens per forward pass; fewer need less memory. Shared prefixes count once."
    )
    baselines: bool = Field(
        default=True, description="Compare with random guesses, the majority class and bag-of-words classifiers."
    )
    slice_by: Names = Field(default=(), description="Columns by which to break down the accuracy, e.g. [genre].")


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
    lora: LoraSection = Field(default=LoraSection(), description="The LoRA adapter.")
    training: TrainingSection = Field(default=TrainingSection(), description="The training of the adapter.")
    evaluation: EvaluationSection = Field(default=EvaluationSection(), description="The evaluation of the model.")
    export: ExportSection = Field(default=ExportSection(), description="The export to GGUF files.")
    seed: Annotated[int, Field(ge=0, lt=2**32)] = Field(
        default=42, description="Seed of the data order, the calibration split and the initial weights."
    )

    @model_validator(mode="before")
    @classmethod
    def _default_targets(cls, values: Any) -> Any:
        model, lora = (values.get("model"), values.get("lora", {})) if isinstance(values, dict) else (None, None)
        if isinstance(model, dict) and model.get("kind") == "encoder" and isinstance(lora, dict):
            values = {**values, "lora": {"target_modules": ENCODER_DEFAULT_TARGETS, **lora}}
        return values

    @model_validator(mode="after")
    def _check(self) -> "Recipe":
        mistakes = find_kind_errors(self)
        label_map_mistakes = find_label_map_errors(self.data.label_map or {}, self.task.labels)
        mistakes += [f"data.label_map: {mistake}" for mistake in label_map_mistakes]
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
