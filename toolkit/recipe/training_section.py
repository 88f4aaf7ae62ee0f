"""The section `training` of a recipe."""

from typing import Annotated, Any, Literal

from pydantic import Field, NonNegativeFloat, PositiveFloat, model_validator

from toolkit.recipe.section import Auto, BatchRows, Count, Fraction, Names, Section

# Beyond these bounds, losses overflow or vanish in 32 bits, and it looks as if training had diverged.
ClassWeight = Annotated[float, Field(ge=1e-6, le=1e6)]
ClassWeights = Annotated[dict[str | bool | int | float, ClassWeight], Field(min_length=1)]


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
    learning_rate: PositiveFloat = Field(
        default=1e-4, description="The peak learning rate; with lora: null, the default is 5e-5."
    )
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
    objective: Literal["tokens", "labels"] = Field(
        default="tokens",
        description="tokens: the loss of the answer's tokens; labels: the loss of the label among all labels.",
    )
    label_smoothing: Fraction = Field(
        default=0.0, description="Share of each row's probability that is divided equally among all labels."
    )
    class_weights: Literal["none", "balanced"] | ClassWeights = Field(
        default="none",
        description="Weight of a label's rows in the loss, e.g. {neutral: 2}; balanced: equal total weight per label.",
    )
    batching: Literal["auto", "prefix_tree", "padded"] = Field(
        default="auto",
        description="prefix_tree: compute shared beginnings of rows once; padded: pad the rows; auto: the faster one.",
    )
    group_by: Literal["auto", "none"] | Annotated[Names, Field(min_length=1)] = Field(
        default="auto",
        description="Inputs, e.g. [premise]: keep rows that share them adjacent; auto: the first one, in trees.",
    )
    group_by_premise: Auto | bool | None = Field(
        default=None, exclude=True, description="Older name of group_by: true means [premise], and false means none."
    )
    gradient_checkpointing: Auto | bool = Field(
        default="auto",
        description="Recompute activations to save memory, at the cost of speed; auto: on a GPU with little memory.",
    )
    save_steps: Count = Field(default=200, description="Optimizer steps between two checkpoints.")
    save_total_limit: Count = Field(default=2, description="Number of checkpoints to keep on disk.")
    eval_steps: Auto | Count | None = Field(
        default="auto",
        description="Optimizer steps between validations; auto: at most 5% of training time; null: no validation.",
    )
    keep: Literal["last", "best"] = Field(
        default="last", description="The step whose adapter is saved: the last one, or the best one on the dev rows."
    )
    best_metric: Literal["nll", "accuracy", "macro_f1"] = Field(
        default="nll", description="The metric of the dev rows by which steps are compared."
    )
    early_stopping_patience: Count | None = Field(
        default=None, description="Stop after this number of validations without improvement; null: never."
    )
    report_to: Literal["none", "tensorboard", "wandb", "trackio", "mlflow"] = Field(
        default="none", description="An experiment tracker in addition to train_log.jsonl; none: send nothing anywhere."
    )

    @model_validator(mode="before")
    @classmethod
    def _rename_grouping(cls, values: Any) -> Any:
        if not isinstance(values, dict) or not isinstance(old := values.get("group_by_premise"), (bool, str)):
            return values
        new = {"auto": "auto", True: ["premise"], False: "none"}.get(old)
        if new is None or values.get("group_by", new) != new:
            return values  # an invalid value, or a contradiction, which `_check` reports
        return {**values, "group_by": new, "group_by_premise": None}

    @model_validator(mode="after")
    def _check(self) -> "TrainingSection":
        if self.group_by_premise is not None:
            raise ValueError("training.group_by_premise: contradicts group_by; leave it out")
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
        if self.objective == "labels" and self.loss_on == "full_text":
            raise ValueError(
                "training.loss_on: full_text trains on the prompt, but objective labels only compares labels; "
                "leave out one of the two"
            )
        uses_metric = self.keep == "best" or self.early_stopping_patience is not None
        if uses_metric and self.eval_steps is None:
            raise ValueError(
                "training.eval_steps: null turns off validation, which keep: best and early_stopping_patience require; "
                "set it to auto or a number of steps"
            )
        if self.best_metric != "nll" and not uses_metric:
            raise ValueError(
                "training.best_metric: has no effect without keep: best or early_stopping_patience; set one of them, "
                "or leave it out"
            )
        return self

    @property
    def group_by_inputs(self) -> tuple[str, ...]:
        """The inputs in `group_by`; empty for auto and none."""
        return self.group_by if isinstance(self.group_by, tuple) else ()

    @property
    def chat_warning(self) -> str | None:
        """A warning that a chat with the model can leave the labels, because only their comparison is trained."""
        if self.objective == "tokens":
            return None
        return (
            "training.objective: labels trains the comparison of the labels, so free generation and a chat in Ollama "
            "can answer with other text. training.objective: tokens also trains the answer itself."
        )
