"""Labels as text: one spelling of each, so that a label in the data is found whatever its Unicode form or its type."""

import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from typing import Any


def normalize_label(label: Any) -> str:
    """Return the text by which a label is compared: without outer whitespace, in Unicode's NFC form.

    Numbers become text, so that the key 0 of a label map matches both the number in JSON and the text in CSV.
    """
    # "é" is one code point in NFC and two in NFD, which macOS and some editors write. The two look the same.
    return unicodedata.normalize("NFC", str(label).strip())


def label_texts(labels: Sequence[str], label_map: Mapping[str | int, str] | None) -> dict[str, str]:
    """Return the label of each text that means one, by its normalized form: the labels and the keys of the label map.

    The labels keep the spelling of the recipe.
    """
    spelling = {normalize_label(label): label for label in labels}
    mapped = {normalize_label(key): spelling[normalize_label(label)] for key, label in (label_map or {}).items()}
    return spelling | mapped


def respell_keys(texts: Mapping[Any, Any], labels: Iterable[Any]) -> dict[Any, Any]:
    """Return a mapping from labels with its keys spelled as in `labels`. Keys that are not labels are kept."""
    spelling = {normalize_label(label): label for label in labels if isinstance(label, str)}
    # A key with outer whitespace is not a label: it is kept, and reported.
    respelled = {
        spelling.get(normalize_label(key), key) if isinstance(key, str) and key == key.strip() else key: text
        for key, text in texts.items()
    }
    return respelled if len(respelled) == len(texts) else dict(texts)


def find_label_errors(labels: Sequence[str]) -> list[str]:
    """Return a sentence for each kind of mistake in the labels of a task."""
    mistakes = []
    if padded := [label for label in labels if label != label.strip()]:
        mistakes.append(
            f"{padded[0]!r} starts or ends with whitespace, which is removed from the data's labels, so no row could "
            "have it; remove the whitespace"
        )
    if "" in labels:
        mistakes.append("a label is empty, but an empty label in the data means that there is none; give it a name")
    if control := [label for label in labels if any(unicodedata.category(character) == "Cc" for character in label)]:
        mistakes.append(f"{control[0]!r} contains a control character such as a tab or a line break; remove it")
    if len(set(labels)) < len(labels):
        mistakes.append(f"{list(labels)} lists a label twice; list each label once")
    elif pair := find_equal(labels):
        mistakes.append(f"{pair[0]!a} and {pair[1]!a} are two Unicode forms of the same text; keep one of them")
    return mistakes


def find_label_map_errors(label_map: Mapping[str | int, str], labels: Sequence[str]) -> list[str]:
    """Return a sentence for each kind of mistake in a label map."""
    mistakes, known = [], {normalize_label(label) for label in labels}
    if unknown := [
        label for label in label_map.values() if label != label.strip() or normalize_label(label) not in known
    ]:
        mistakes.append(f"{unknown[0]!r} is not one of the labels {list(labels)}")
    keys = list(label_map)
    if padded := [key for key in keys if isinstance(key, str) and (not key or key != key.strip())]:
        mistakes.append(
            f"the key {padded[0]!r} is empty, or starts or ends with whitespace, so no value in the data can match it; "
            "remove the whitespace or the key"
        )
    elif pair := find_equal(keys):
        mistakes.append(f"the keys {pair[0]!a} and {pair[1]!a} match the same values in the data; keep one of them")
    return mistakes


def find_equal(labels: Iterable[Any]) -> tuple[Any, Any] | None:
    """Return the first two labels that are compared as equal."""
    seen: dict[str, Any] = {}
    for label in labels:
        key = normalize_label(label)
        if key in seen:
            return seen[key], label
        seen[key] = label
    return None
