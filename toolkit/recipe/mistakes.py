"""Sentences for the mistakes that pydantic finds in a recipe: the key, the value and what to write instead."""

import difflib
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import ValidationError

_MAX_VALUE_CHARACTERS = 100
_MAX_REPORTED_MISTAKES = 20
_QUOTE = "put such values in quotation marks"

# Names of these keys in other training libraries, for the suggestion in an error message.
_SYNONYMS = {
    "lr": "learning_rate", "rank": "r", "lora_r": "r", "lora_alpha": "alpha", "lora_dropout": "dropout",
    "num_train_epochs": "epochs", "num_epochs": "epochs", "model_name": "name", "max_length": "max_seq_length",
    "per_device_train_batch_size": "micro_batch_size", "lr_scheduler_type": "scheduler", "optim": "optimizer",
    "precision": "dtype",
}  # fmt: skip


def describe_mistakes(error: ValidationError, where: str, known_keys: Sequence[str], document: str = "recipe") -> str:
    """Return one line for each key with a mistake.

    Args:
        error: The error that pydantic raised for a recipe or a study.
        where: The name of its file.
        known_keys: The dotted keys that there are, in order.
        document: The word for what is in the file, recipe or study.
    """
    mistakes: dict[str, list[str]] = {}
    errors = error.errors(include_url=False)
    for detail in errors:
        # pydantic drops invalid items before it counts, so an invalid item also makes its list "too short".
        if detail["type"] == "too_short" and any(item["loc"][:-1] == detail["loc"] for item in errors):
            continue
        # A mapping with an invalid item was meant to be the mapping of a union, not one of the union's words.
        if detail["type"] == "literal_error" and any(_is_inside(item, detail["loc"]) for item in errors):
            continue
        key, text = _describe_error(detail, known_keys, document)
        texts = mistakes.setdefault(key, [])
        if not any(earlier.endswith(_QUOTE) for earlier in texts):  # one sentence for all values without quotes
            texts.append(text)
    lines = [
        f"{where}: {key:.{_MAX_VALUE_CHARACTERS}}: {' or '.join(_merge_messages(list(dict.fromkeys(texts))))}.".replace(
            "?.", "?"
        )
        for key, texts in mistakes.items()
    ]
    if (omitted := len(lines) - _MAX_REPORTED_MISTAKES) > 0:
        lines = [*lines[:_MAX_REPORTED_MISTAKES], f"{where}: {omitted:,} more mistakes."]
    return "\n".join(lines)


def _is_inside(error: Mapping[str, Any], member: Sequence[str | int]) -> bool:
    """Return whether an error is about an item, or the number of items, of a mapping in the union of `member`."""
    is_item = len(error["loc"]) > len(member) or (isinstance(error["input"], dict) and error["type"] == "too_short")
    return is_item and error["loc"][: len(member) - 1] == member[:-1]


def _describe_error(error: Mapping[str, Any], known_keys: Sequence[str], document: str) -> tuple[str, str]:
    """Return the dotted key of one of pydantic's errors, and a description of the mistake."""
    location = [str(component) for component in error["loc"]]
    if error["type"] == "extra_forbidden":
        return ".".join(location), _describe_unknown_key(location, known_keys, document)
    # pydantic appends list indices, the keys of a dictionary and the members of a union to the location, so the key is
    # its longest known prefix.
    prefixes = (".".join(location[:length]) for length in range(len(location), 0, -1))
    key = next((prefix for prefix in prefixes if prefix in known_keys), ".".join(location))
    if error["type"] == "missing":
        return key, f"missing; the {document} must set it"
    if error["type"] == "too_short":
        count, minimum = len(error["input"]), error["ctx"]["min_length"]
        return key, f"has {count} values, but needs at least {minimum}"
    if error["type"] == "value_error":
        # One of our own validators; its message begins with the key, because a location names only the section.
        key, _, text = str(error["ctx"]["error"]).partition(": ")
        return key, text
    if error["type"] == "model_type":
        return key, f"{shorten(error['input'])} is not a section; write its keys and values"
    if location[-2:-1] == ["[key]"]:
        # A key of a label map. YAML reads an empty key as null, and rows without a label have a setting of their own.
        if error["input"] is None:
            return key, "the key null matches no value; leave out rows without a label with data.unlabeled: skip"
        return key, f"the key {shorten(error['input'])} is neither text nor a number nor a truth value"
    if error["type"] == "string_type" and isinstance(error["input"], (bool, int, float)):
        # YAML reads 0, 1e4 and true as numbers and a truth value unless they are quoted.
        kind = "a truth value" if isinstance(error["input"], bool) else "a number"
        return key, f"{shorten(error['input'])} is {kind}, not text; {_QUOTE}"
    rule = error["msg"].removeprefix("Input ").replace("valid tuple", "list").replace("valid dictionary", "mapping")
    return key, f"{shorten(error['input'])} cannot be used; it {rule[0].lower()}{rule[1:]}"


def shorten(value: Any) -> str:
    """Return a value as Python writes it, cut to a length that fits a sentence."""
    text = repr(value)
    return text if len(text) <= _MAX_VALUE_CHARACTERS else f"{text[: _MAX_VALUE_CHARACTERS - 3]}..."


def _describe_unknown_key(location: Sequence[str], known_keys: Sequence[str], document: str) -> str:
    section, name = ".".join(location[:-1]), location[-1]
    canonical = _SYNONYMS.get(name, name)
    sections = list(dict.fromkeys(key.partition(".")[0] for key in known_keys))
    section_keys = [key for key in known_keys if key.rpartition(".")[0] == section] if section else sections
    owner = f"section {section}" if section else f"a {document}"
    # A typo in a key of this section is more likely than a key of another section.
    for keys in (section_keys, known_keys):
        names = {key.rsplit(".", 1)[-1]: key for key in reversed(keys)}  # of keys with the same name, the first wins
        if matches := difflib.get_close_matches(canonical, names, n=1, cutoff=0.7):
            return f"not a key of {owner}; did you mean {names[matches[0]]}?"
    key_names = [key.rsplit(".", 1)[-1] for key in section_keys]
    return f"not a known key; {owner} has {', '.join(key_names)}"


def _merge_messages(texts: Sequence[str]) -> list[str]:
    """Remove from all but the first message the beginning they share, since they are about the same value."""
    shared_beginning = texts[0].rpartition(" it ")[0] + " it "
    return [texts[0], *(text.removeprefix(shared_beginning) for text in texts[1:])]
