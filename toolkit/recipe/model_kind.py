"""The two kinds of model: a decoder, which writes its answer, and an encoder with a classification head."""

import difflib
from string import Formatter
from typing import Any, Literal, get_args

from toolkit.errors import RunError

ModelKind = Literal["decoder", "encoder"]
DecoderTarget = Literal["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]

DECODER_AUTO_TARGETS: tuple[DecoderTarget, ...] = ("q_proj", "k_proj", "v_proj", "o_proj")
"""The meaning of `lora.target_modules: auto` for a decoder. For an encoder, see `models.lora_targets`."""

FULL_LEARNING_RATE = 5e-5
"""The default learning rate if all weights are trained, the highest that the authors of BERT recommend
(arXiv 1810.04805, appendix A.3). LoRA's default would be too high: a pre-trained model forgets what it has learned."""

_ENCODER_TEXTS = 2  # a text, or a sentence pair

_HEAD = "an encoder reads only the texts of a row and has one output per label"
# In bidirectional attention a token also depends on what follows, so a prefix cannot be computed once for all rows.
_TREE = "an encoder attends in both directions, so its rows cannot share a prefix"
_ENCODER_IGNORES = {
    "task.system": _HEAD,
    "task.verbalizers": _HEAD,
    "task.chat_template": _HEAD,
    "task.date_string": _HEAD,
    "model.load_in_4bit": "an encoder is small and is never quantized",
    "training.objective": "the loss of an encoder is always over the labels",
    "training.loss_on": "the loss of an encoder is always that of the label",
    "training.batch_tokens": _TREE,
    "export.gguf": "only decoders can be exported",
}
"""Keys that have no effect on an encoder, with the reason."""


def find_kind_errors(recipe: Any) -> list[str]:
    """Find keys that do not fit the recipe's model.kind: unusable values, missing keys and keys without effect.

    Args:
        recipe: A `toolkit.recipe.schema.Recipe` (that module imports this one, so its type cannot be named here).

    Returns:
        One message per key, of the form `key: sentence`.
    """
    return _ignored_by_encoder(recipe) if recipe.model.kind == "encoder" else _unusable_by_decoder(recipe)


def _unusable_by_decoder(recipe: Any) -> list[str]:
    if recipe.lora is None:
        mistakes = ["lora: null trains all weights of an encoder, but a decoder is trained with an adapter; remove it"]
    else:
        mistakes = [
            f"lora.target_modules: {_describe_unknown_layer(name)}"
            for name in recipe.lora.target_modules
            if name not in get_args(DecoderTarget)
        ]
    # These keys have defaults only because an encoder does not need them. The recipe of a decoder must set them.
    fields_set = recipe.task.model_fields_set
    missing = [name for name in ("system", "user") if name not in fields_set]
    return mistakes + [f"task.{name}: missing; the recipe must set it" for name in missing]


def _describe_unknown_layer(name: str) -> str:
    layers = get_args(DecoderTarget)
    similar = difflib.get_close_matches(name, layers, n=1)
    advice = f"did you mean {similar[0]}?" if similar else f"choose from {', '.join(layers)}"
    return f"{name!r} is not a layer of a model of kind decoder; {advice}"


def _ignored_by_encoder(recipe: Any) -> list[str]:
    """Return a message for each key that an encoder cannot use, or that has no effect but differs from its default."""
    mistakes = []
    inputs = recipe.task.inputs
    if len(inputs) > _ENCODER_TEXTS:
        mistakes.append(
            f"task.user: has {len(inputs)} inputs ({', '.join(inputs)}), but an encoder reads one text or a pair; use "
            "at most two, or a model of kind decoder"
        )
    elif any(text.strip() for text, *_ in Formatter().parse(recipe.task.user)):
        mistakes.append(
            "task.user: has no effect with model.kind encoder, except that it names the inputs: "
            f"{_HEAD}; write only {''.join(f'{{{name}}}' for name in inputs)}"
        )
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


def require_decoder(kind: ModelKind, feature: str, hint: str | None = None) -> None:
    """Check that a run's model can generate text.

    Args:
        kind: The run's model.kind.
        feature: The requested feature, as the beginning of the error message.
        hint: What to do instead.

    Raises:
        RunError: If the run's model is an encoder.
    """
    if kind == "encoder":
        raise RunError(f"{feature} needs a model that generates text, but this run's model.kind is encoder.", hint=hint)
