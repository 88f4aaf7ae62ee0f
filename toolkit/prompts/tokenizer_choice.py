"""The choice between the tokenizer of a base model and the one that was saved with an adapter."""

from pathlib import Path
from typing import Any

from toolkit.prompts.tokenizer import SAMPLES, encode_plain, has_tokenizer, load_tokenizer


def choose_tokenizer(adapter: Path, base: Path) -> tuple[Path, str]:
    """Return the folder of the tokenizer that an adapter was trained with, and the reason in one phrase.

    This is the adapter's own tokenizer if it has one. If it lacks only the chat template, which some trainers do not
    save, the base's is used.

    Args:
        adapter: The folder of the adapter.
        base: The folder of the base model.

    Raises:
        ModelError: If a tokenizer cannot be loaded.
    """
    if not has_tokenizer(adapter):
        return base, "the base model's; the adapter has none"
    own, other = load_tokenizer(adapter), load_tokenizer(base)
    differences = _differences(own, other)
    if not differences:
        return adapter, "the adapter's, equal to the base model's"
    if differences == ["chat template"] and own.chat_template is None:
        return base, "the base model's; the adapter's has the same tokens but no chat template"
    return (
        adapter,
        f"the adapter's, with which it was trained; the base model's has another {' and '.join(differences)}",
    )


def _differences(own: Any, other: Any) -> list[str]:
    has_same_ids = own.get_vocab() == other.get_vocab() and all(
        encode_plain(own, text) == encode_plain(other, text) for text in SAMPLES
    )
    return ["vocabulary"] * (not has_same_ids) + ["chat template"] * (own.chat_template != other.chat_template)
