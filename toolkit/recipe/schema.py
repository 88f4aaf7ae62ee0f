"""The recipe: one frozen, validated description of a task, its data, its model, its training and its export."""

from string import Formatter
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeFloat,
    PositiveFloat,
    ValidationError,
    model_validator,
)
from pydantic_core import InitErrorDetails

from toolkit.recipe.model_kind import ENCODER_DEFAULT_TARGETS, Kind, LoraTarget, kind_mistakes

Auto = Literal["auto"]
GgufType = Literal[
    "f32", "f16", "bf16", "q8_0", "q6_k", "q5_k_m", "q5_1", "q5_0", "q4_k_m", "q4_1", "q4_0", "mxfp4", "tq2_0", "tq1_0"
]
Fraction = Annotated[float, Field(ge=0, lt=1)]
# Far above what any run has: beyond, a number is a slip of the keyboard, and loops and sizes made of it never end.
Count = Annotated[int, Field(gt=0, le=10**9)]
BatchRows = Annotated[int, Field(gt=0, le=10**6)]
LoraSize = Annotated[int, Field(gt=0, le=2**16)]
# Strict mode takes no list for a tuple; YAML has only lists.
Labels = Annotated[tuple[str, ...], Field(strict=False, min_length=2)]
Names = Annotated[tuple[str, ...], Field(strict=False)]


class Section(BaseModel):
    """A part of the recipe: frozen, unknown keys refused, no silent conversion of a value."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class Task(Section):
    """What is asked of the model, in which words."""

    labels: Labels = Field(description="The classes; their order is that of every table.")
    verbalizers: dict[str, str] = Field(
        default_factory=dict, description="The text that stands for each label; default: the label itself."
    )
    system: str | None = Field(
        default=None, description="The instruction; null sends no system message. A decoder's recipe must give it."
    )
    user: str = Field(
        default="{premise}\n{hypothesis}",
        description="The user's message, with {premise} and {hypothesis}. A decoder's recipe must give it.",
    )
    chat_template: str | None = Field(
        default=None, description="Jinja text, or a file that holds it; null takes the tokenizer's own."
    )
    date_string: str | None = Field(
        default="26 Jul 2024",
        description="The date that Llama 3.x templates print; pinned, since prompts would otherwise change daily.",
    )

    @model_validator(mode="before")
    @classmethod
    def _default_verbalizers(cls, values: Any) -> Any:
        if isinstance(values, dict) and isinstance(values.get("labels"), (list, tuple)):
            values = {"verbalizers": {str(label): str(label) for label in values["labels"]}, **values}
        return values

    @model_validator(mode="after")
    def _check(self) -> "Task":
        if len(set(self.labels)) < len(self.labels):
            raise ValueError(f"task.labels: {list(self.labels)} names a label twice; name each once")
        if set(self.verbalizers) != set(self.labels):
            raise ValueError(
                f"task.verbalizers: has keys {sorted(self.verbalizers)}, but the labels are {sorted(self.labels)}; "
                "give one verbalizer for each label"
            )
        if any(not text.strip() for text in self.verbalizers.values()):
            raise ValueError("task.verbalizers: a verbalizer is blank, so there is nothing to decode; give each a word")
        try:
            placeholders = [placeholder for placeholder in Formatter().parse(self.user) if placeholder[1] is not None]
        except ValueError as error:
            raise ValueError(f"task.user: {error}; write a literal brace twice") from error
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
    """Where rows come from."""

    path: str = Field(
        min_length=1,
        description="A hub id, a local file (.jsonl .json .csv .tsv .parquet), or embedded:nli-fr.",
    )
    name: str | None = Field(default=None, description="The hub dataset's configuration; ignored for a local file.")
    split: str | None = Field(default=None, description="The split of a hub or embedded dataset.")
    limit: Count | None = Field(default=None, description="Use the first N rows; null uses all.")


class Columns(Section):
    """Which columns of the rows hold what."""

    premise: str = Field(default="premise", description="The column of the premise.")
    hypothesis: str = Field(default="hypothesis", description="The column of the hypothesis.")
    label: str = Field(default="label", description="The column of the label.")
    id: str | None = Field(default=None, description="The column of the row's id; null numbers the rows from 1.")


class Data(Section):
    """The rows to train on and to score."""

    train: Source = Field(description="The training rows.")
    eval: Source = Field(description="The evaluation rows; never trained on.")
    columns: Columns = Field(default=Columns(), description="How the rows' columns are named.")
    label_map: dict[str | int, str] | None = Field(
        default=None, description="From the file's values to labels, e.g. {0: entailment}; null: they are labels."
    )
    allow_overlap: bool = Field(default=False, description="Accept pairs that stand in both train and eval.")
    calibration_share: Fraction = Field(
        default=0.0,
        description="Share of the training rows, in whole premises, held back to fit a temperature on.",
    )


class Model(Section):
    """The base model."""

    name: str = Field(min_length=1, description="A hub id, a local folder, or embedded:tiny-llama-fr.")
    kind: Kind = Field(
        default="decoder",
        description="decoder: writes its answer; encoder: has a classification head, which is trained.",
    )
    revision: str | None = Field(default=None, description="A hub branch, tag or commit; null is the default branch.")
    load_in_4bit: bool = Field(default=False, description="QLoRA: nf4 weights with double quantisation.")
    dtype: Literal["auto", "bfloat16", "float16", "float32"] = Field(
        default="auto",
        description="auto: bfloat16 on a GPU that has it or a CPU with AMX; else float16 on a GPU, float32 on a CPU.",
    )
    max_seq_length: Annotated[int, Field(ge=8, le=2**20)] = Field(
        default=384, description="Tokens per row; a longer row loses the end of its premise, never its label."
    )


class Lora(Section):
    """The adapter."""

    r: LoraSize = Field(default=16, description="Rank of the update matrices.")
    alpha: LoraSize = Field(default=32, description="The update is scaled by alpha / r.")
    dropout: Fraction = Field(default=0.05, description="Above 0, Unsloth leaves its fused kernels.")
    target_modules: Annotated[tuple[LoraTarget, ...], Field(strict=False, min_length=1)] = Field(
        default=("q_proj", "k_proj", "v_proj", "o_proj"),
        description="The linear layers that get an adapter; an encoder's default is query and value.",
    )
    use_rslora: bool = Field(default=False, description="Scale by alpha / sqrt(r) instead (arXiv 2312.03732).")
    use_dora: bool = Field(default=False, description="Weight-decomposed LoRA (arXiv 2402.09353); slower.")


class Training(Section):
    """How the adapter is trained."""

    epochs: PositiveFloat = Field(default=2.0, le=10**6, description="Passes over the training rows.")
    max_steps: Count | None = Field(default=None, description="Stop after N optimiser steps; null: epochs rule.")
    batch_size: BatchRows = Field(default=16, description="Rows per optimiser step, over all devices.")
    micro_batch_size: Auto | BatchRows = Field(
        default="auto",
        description="Rows per forward pass of a padded batch; a divisor of batch_size. Smaller saves memory.",
    )
    batch_tokens: Auto | Count = Field(
        default="auto", description="Nodes per forward pass of a prefix-tree batch; auto: what memory holds."
    )
    learning_rate: PositiveFloat = Field(default=1e-4, description="Peak learning rate.")
    warmup_ratio: Fraction = Field(default=0.03, description="Share of the steps in which the rate rises to its peak.")
    scheduler: Literal["cosine", "linear", "constant_with_warmup"] = Field(
        default="cosine", description="How the rate falls after warm-up."
    )
    weight_decay: NonNegativeFloat = Field(default=0.0, description="Decoupled weight decay of AdamW.")
    optimizer: Literal["auto", "adamw_8bit", "adamw_torch_fused", "adamw_torch"] = Field(
        default="auto", description="auto: adamw_8bit on a GPU, fused AdamW on a CPU."
    )
    loss_on: Literal["completion", "full_text"] = Field(
        default="completion", description="Train on the answer alone, or on the prompt too."
    )
    batching: Literal["auto", "prefix_tree", "padded"] = Field(
        default="auto", description="How rows become tensors; auto: as prefix trees, where rows share enough tokens."
    )
    group_by_premise: Auto | bool = Field(
        default="auto",
        description="Whether a premise's rows stand next to each other: fewer nodes; auto: in prefix trees.",
    )
    gradient_checkpointing: Auto | bool = Field(
        default="auto", description="Recompute activations in the backward pass; auto: on a GPU only."
    )
    save_steps: Count = Field(default=200, description="Optimiser steps between checkpoints to resume from.")
    save_total_limit: Count = Field(default=2, description="Checkpoints kept on disk.")
    report_to: Literal["none", "tensorboard", "wandb"] = Field(
        default="none", description="A tracker beside train_log.jsonl; nothing is sent anywhere by default."
    )

    @model_validator(mode="after")
    def _check(self) -> "Training":
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


class Evaluation(Section):
    """How the model is measured."""

    batch_tokens: Auto | Count = Field(
        default="auto", description="Prefix-tree nodes per forward pass; an encoder's padded tokens."
    )
    baselines: bool = Field(default=True, description="Report what a classifier without the model reaches.")
    slice_by: Names = Field(default=(), description="Columns whose values get an accuracy each.")


class Export(Section):
    """What is shipped."""

    gguf: Annotated[tuple[GgufType, ...], Field(strict=False, min_length=1)] = Field(
        default=("q8_0",), description="File types to write; q4_k_m, q5_k_m and q6_k need llama.cpp's quantiser."
    )


class Recipe(Section):
    """A whole recipe. Field descriptions serve --help, the documentation and the JSON Schema."""

    task: Task = Field(description="What is asked of the model, in which words.")
    data: Data = Field(description="The rows to train on and to score.")
    model: Model = Field(description="The base model.")
    lora: Lora = Field(default=Lora(), description="The adapter.")
    training: Training = Field(default=Training(), description="How the adapter is trained.")
    evaluation: Evaluation = Field(default=Evaluation(), description="How the model is measured.")
    export: Export = Field(default=Export(), description="What is shipped.")
    seed: Annotated[int, Field(ge=0, lt=2**32)] = Field(default=42, description="Seed of data order and adapter.")

    @model_validator(mode="before")
    @classmethod
    def _default_targets(cls, values: Any) -> Any:
        model, lora = (values.get("model"), values.get("lora", {})) if isinstance(values, dict) else (None, None)
        if isinstance(model, dict) and model.get("kind") == "encoder" and isinstance(lora, dict):
            values = {**values, "lora": {"target_modules": ENCODER_DEFAULT_TARGETS, **lora}}
        return values

    @model_validator(mode="after")
    def _check(self) -> "Recipe":
        mistakes = kind_mistakes(self)
        unknown = [label for label in (self.data.label_map or {}).values() if label not in self.task.labels]
        if unknown:
            mistakes.append(f"data.label_map: {unknown[0]!r} is not one of the labels {list(self.task.labels)}")
        if mistakes:
            raise ValidationError.from_exception_data(
                "Recipe",
                [
                    InitErrorDetails(type="value_error", input=None, ctx={"error": ValueError(mistake)})
                    for mistake in mistakes
                ],
            )
        return self
