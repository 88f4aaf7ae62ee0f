"""The two kinds of model: a decoder that writes its answer, and an encoder with a classification head."""

from typing import Any, Literal, get_args

from toolkit.errors import RunError

Kind = Literal["decoder", "encoder"]
DecoderTarget = Literal["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
EncoderTarget = Literal["query", "key", "value", "dense", "query_proj", "key_proj", "value_proj"]
"""Layers of the BERT and RoBERTa families (CamemBERT's too), and those of DeBERTa, which have names of their own."""

LoraTarget = Literal[DecoderTarget, EncoderTarget]

_TARGETS: dict[Kind, tuple[str, ...]] = {"decoder": get_args(DecoderTarget), "encoder": get_args(EncoderTarget)}
ENCODER_DEFAULT_TARGETS = ("query", "value")

_HEAD = "an encoder reads the two texts as a pair and has one output per label"
_TREE = "an encoder reads in both directions, so its rows share no beginning"
_ENCODER_IGNORES = {
    "task.system": _HEAD,
    "task.user": _HEAD,
    "task.verbalizers": _HEAD,
    "task.chat_template": _HEAD,
    "task.date_string": _HEAD,
    "model.load_in_4bit": "an encoder is small and is loaded unquantised",
    "training.loss_on": "an encoder's loss is on the label",
    "training.batch_tokens": _TREE,
    "export.gguf": "only decoders are exported",
}
"""Keys that have no effect on an encoder, and why."""


def kind_mistakes(recipe: Any) -> list[str]:
    """What a recipe sets that its model.kind cannot use, or lacks that it needs, as `key: sentence`.

    Args:
        recipe: a `toolkit.recipe.schema.Recipe`.
    """
    kind, targets = recipe.model.kind, _TARGETS[recipe.model.kind]
    unsupported = [
        f"lora.target_modules: {name!r} is no layer of a model of kind {kind}; choose from {', '.join(targets)}"
        for name in recipe.lora.target_modules
        if name not in targets
    ]
    return unsupported + (_ignored_by_encoder(recipe) if kind == "encoder" else _missing_for_decoder(recipe))


def _missing_for_decoder(recipe: Any) -> list[str]:
    fields_set = recipe.task.model_fields_set
    return [f"task.{name}: missing; the recipe must give it" for name in ("system", "user") if name not in fields_set]


def _ignored_by_encoder(recipe: Any) -> list[str]:
    """Keys that would change nothing and yet differ from their default: refused, never ignored."""
    mistakes = []
    for key, reason in _ENCODER_IGNORES.items():
        section, name = (getattr(recipe, key.split(".")[0]), key.split(".")[1])
        default = type(section).model_fields[name].get_default(call_default_factory=True)
        if key == "task.verbalizers":
            default = {label: label for label in recipe.task.labels}
        if getattr(section, name) != default:
            mistakes.append(f"{key}: has no effect with model.kind encoder: {reason}; leave it out")
    if recipe.training.batching == "prefix_tree":
        mistakes.append(f"training.batching: prefix_tree cannot be used with model.kind encoder: {_TREE}; leave it out")
    return mistakes


def require_decoder(kind: Kind, feature: str, hint: str | None = None) -> None:
    """Refuse what only a model that writes text can do.

    Args:
        kind: the run's model.kind.
        feature: what was asked for; the sentence begins with it.
        hint: what to do instead.

    Raises:
        RunError: the run's model is an encoder.
    """
    if kind == "encoder":
        raise RunError(f"{feature} needs a model that writes text, but this run's model.kind is encoder.", hint=hint)
