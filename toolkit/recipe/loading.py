"""Recipes on disk: YAML in, every mistake in one report, the resolved recipe and its JSON Schema out."""

import difflib
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from toolkit.errors import RecipeError
from toolkit.recipe.schema import Recipe
from toolkit.recipe.yaml_parser import dump_yaml, parse_yaml

LOCAL_SUFFIXES = (".jsonl", ".json", ".csv", ".tsv", ".parquet")
_HINT = "Every key is described by: toolkit.Recipe.model_json_schema()"
_LONGEST_VALUE = 100
_MOST_MISTAKES = 20

# What other trainers call these keys.
_SYNONYMS = {
    "lr": "learning_rate", "rank": "r", "lora_r": "r", "lora_alpha": "alpha", "lora_dropout": "dropout",
    "num_train_epochs": "epochs", "num_epochs": "epochs", "model_name": "name", "max_length": "max_seq_length",
    "per_device_train_batch_size": "micro_batch_size", "lr_scheduler_type": "scheduler", "optim": "optimizer",
    "precision": "dtype",
}  # fmt: skip


Overrides = Sequence[str] | Mapping[str, Any]
"""Changes of a recipe: `section.key=value` with the value in YAML, or plain values by their dotted keys."""


def read_recipe_text(path: Path) -> str:
    """Read the text of a recipe's file.

    Raises:
        RecipeError: there is no such file, or it holds no text.
    """
    if not path.is_file():
        recipe_files = ", ".join(sorted(str(file) for file in Path("recipes").glob("*.yaml")))
        message = f"The recipe {path} is a folder." if path.is_dir() else f"There is no recipe file {path}."
        raise RecipeError(
            message, hint=f"Recipes here: {recipe_files}" if recipe_files else "Give the name of a .yaml file."
        )
    return _read_text(path)


def parse_recipe(text: str, where: str) -> dict[str, Any]:
    """Return a recipe's sections as plain values, unchecked.

    Args:
        text: YAML.
        where: what the text is called in a message.

    Raises:
        RecipeError: it is not YAML with sections.
    """
    values = parse_yaml(text, where)
    if not isinstance(values, dict):
        kind = "nothing" if values is None else f"a {type(values).__name__}"
        raise RecipeError(f"{where} holds {kind}, not sections such as `task:` and `model:`.", hint=_HINT)
    return values


def _read_text(path: Path) -> str:
    try:
        text = path.read_text(encoding="utf-8-sig")  # some editors put a byte-order mark in front
    except UnicodeDecodeError as error:
        raise RecipeError(f"{path} is not UTF-8 text (byte {error.start}).", hint="Save it as UTF-8.") from error
    if "\0" in text:
        raise RecipeError(f"{path} holds NUL characters, so it is no text.", hint="Is it UTF-16? Save it as UTF-8.")
    return text


def _override(values: dict[str, Any], overrides: Overrides) -> None:
    if isinstance(overrides, str) or not isinstance(overrides, (Mapping, Sequence)):
        raise RecipeError(
            f"overrides is {overrides!r}, not a list of changes.",
            hint='Write {"section.key": value}, or ["section.key=value"].',
        )
    if isinstance(overrides, Mapping):
        for key, value in overrides.items():
            _set_key(values, key, key, deepcopy(value))
        return
    for assignment in overrides:
        key, equals, text = assignment.partition("=")
        if not equals or not key.strip():
            raise RecipeError(f"overrides: {assignment!r} has no '='.", hint="Write section.key=value.")
        _set_key(values, key.strip(), f"overrides: {key}", parse_yaml(text, f"overrides: {key}"))


def _set_key(values: dict[str, Any], key: str, where: str, value: Any) -> None:
    *sections, last = key.split(".")
    for section in sections:
        child = values.setdefault(section, {})
        if not isinstance(child, dict):
            raise RecipeError(f"{where}: {section!r} is not a section.", hint="Write section.key and its value.")
        values = child
    values[last] = value


def fields(model: type[BaseModel] = Recipe, prefix: str = "") -> Iterator[tuple[str, str, str]]:
    """Yield (dotted key, default as written in YAML, description) of every key of a recipe, in order."""
    for name, field in model.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            yield from fields(kind, f"{prefix}{name}.")
        else:
            default = "required" if field.is_required() else json.dumps(field.get_default(call_default_factory=True))
            yield f"{prefix}{name}", default, field.description or ""


def _describe_error(error: Mapping[str, Any], known_keys: Sequence[str]) -> tuple[str, str]:
    """(key, what is wrong with it) for one of pydantic's errors."""
    location = [str(component) for component in error["loc"]]
    if error["type"] == "extra_forbidden":
        return ".".join(location), _describe_unknown_key(location, known_keys)
    # A union appends the name of each of its members to the location: the key is the longest known beginning.
    while len(location) > 1 and ".".join(location) not in known_keys and ".".join(location[:-1]) in known_keys:
        location.pop()
    if error["type"] == "missing":
        return ".".join(location), "missing; the recipe must give it"
    if error["type"] == "too_short":
        count, minimum = len(error["input"]), error["ctx"]["min_length"]
        return ".".join(location), f"names {count}, but at least {minimum} are needed"
    if error["type"] == "value_error":
        key, _, text = str(error["ctx"]["error"]).partition(": ")
        return key, text
    rule = error["msg"].removeprefix("Input ")
    return ".".join(location), f"{_shorten(error['input'])} cannot be used; it {rule[0].lower()}{rule[1:]}"


def _shorten(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= _LONGEST_VALUE else f"{text[: _LONGEST_VALUE - 3]}..."


def _describe_unknown_key(location: Sequence[str], known_keys: Sequence[str]) -> str:
    section, name = ".".join(location[:-1]), location[-1]
    canonical = _SYNONYMS.get(name, name)
    section_keys = (
        [key for key in known_keys if key.rpartition(".")[0] == section] if section else list(Recipe.model_fields)
    )
    for keys in (section_keys, known_keys):
        names = {key.rsplit(".", 1)[-1]: key for key in reversed(keys)}
        if matches := difflib.get_close_matches(canonical, names, n=1, cutoff=0.7):
            return f"not a key of {f'section {section}' if section else 'a recipe'}; you meant {names[matches[0]]}"
    key_names = [key.rsplit(".", 1)[-1] for key in section_keys]
    return f"not a known key; {f'section {section}' if section else 'a recipe'} has {', '.join(key_names)}"


def _check_characters(value: Any, where: str, key: str = "") -> None:
    """A NUL ends a name in many a library, half of a character has no UTF-8: neither could be saved and read again."""
    if isinstance(value, dict):
        for name, child in value.items():
            _check_characters(child, where, f"{key}.{name}" if key else str(name))
            _check_characters(name, where, key)
    elif isinstance(value, list):
        for child in value:
            _check_characters(child, where, key)
    elif isinstance(value, str) and re.search("[\0\ud800-\udfff]", value):
        raise RecipeError(
            f"{where}: {key}: {_shorten(value)} holds a NUL or half of a character, which no text has.",
            hint="Write whole characters.",
        )


def _validate(values: dict[str, Any], where: str) -> Recipe:
    try:
        return Recipe.model_validate(values)
    except ValidationError as error:
        known_keys = [key for key, _, _ in fields()]
        mistakes: dict[str, list[str]] = {}
        errors = error.errors(include_url=False)
        for detail in errors:
            # An item that was refused makes its list too short as well: one mistake, not two.
            if detail["type"] == "too_short" and any(other["loc"][:-1] == detail["loc"] for other in errors):
                continue
            key, text = _describe_error(detail, known_keys)
            mistakes.setdefault(key, []).append(text)
        raise RecipeError("\n".join(_format_mistakes(where, mistakes)), hint=_HINT) from error


def _format_mistakes(where: str, mistakes: Mapping[str, list[str]]) -> list[str]:
    lines = [
        f"{where}: {key}: {' or '.join(dict.fromkeys(_merge_messages(texts)))}." for key, texts in mistakes.items()
    ]
    omitted = len(lines) - _MOST_MISTAKES
    return lines if omitted <= 0 else [*lines[:_MOST_MISTAKES], f"{where}: {omitted:,} more mistakes."]


def _merge_messages(texts: Sequence[str]) -> list[str]:
    """Say the shared beginning of several complaints about one value once."""
    shared_beginning = texts[0].rpartition(" it ")[0] + " it "
    return [texts[0], *(text.removeprefix(shared_beginning) for text in texts[1:])]


def _resolve_paths(values: dict[str, Any]) -> None:
    """Make local paths absolute and put a template file's text in place, so that the run folder stands alone."""
    for split in ("train", "eval"):
        source = values.get("data", {}).get(split) if isinstance(values.get("data"), dict) else None
        if isinstance(source, dict) and isinstance(source.get("path"), str):
            source["path"] = resolve_data_path(source["path"])
    model, task = values.get("model"), values.get("task")
    if (
        isinstance(model, dict)
        and model.get("name")
        and isinstance(model["name"], str)
        and _absolute_path(model["name"]).is_dir()
    ):
        model["name"] = str(_absolute_path(model["name"]))
    template = task.get("chat_template") if isinstance(task, dict) else None
    if isinstance(task, dict) and isinstance(template, str) and "{" not in template:
        if not Path(template).is_file():
            raise RecipeError(
                f"task.chat_template {template!r} is neither a file nor Jinja text.",
                hint="Give a file's path, Jinja text, or null for the tokenizer's own.",
            )
        task["chat_template"] = _read_text(Path(template))


def resolve_data_path(path: str) -> str:
    """A local data file's absolute path; a hub id or an embedded dataset's name as it is."""
    return str(_absolute_path(path)) if path.endswith(LOCAL_SUFFIXES) else path


def _absolute_path(path: str) -> Path:
    # pathlib's own raise where there is no such user, and where links lead in a circle
    return Path(os.path.realpath(os.path.expanduser(path)))  # noqa: PTH111


def load_recipe(path: str | Path, overrides: Overrides = ()) -> Recipe:
    """Read, override and validate a recipe.

    Args:
        path: a YAML file.
        overrides: what to change, see `Overrides`.

    Raises:
        RecipeError: with one line for each mistake.
    """
    path = Path(path)
    return build_recipe(parse_recipe(read_recipe_text(path), str(path)), path.name, overrides)


def build_recipe(values: Mapping[str, Any], where: str, overrides: Overrides = ()) -> Recipe:
    """Override and validate a recipe's plain values, which stay as they are.

    Args:
        values: see `parse_recipe`.
        where: what the recipe is called in a message.
        overrides: what to change, see `Overrides`.

    Raises:
        RecipeError: with one line for each mistake.
    """
    changed = deepcopy(dict(values))
    _override(changed, overrides)
    _check_characters(changed, where)
    _resolve_paths(changed)
    return _validate(changed, where)


def dump_recipe(recipe: Recipe) -> str:
    """The recipe as YAML that `load_recipe` reads back to an equal recipe."""
    return dump_yaml(recipe.model_dump(mode="json"))


def as_assignment(key: str, value: Any) -> str:
    """Return the override that is read back as a plain value under the dotted key."""
    return f"{key}={value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)}"


def differences(recipe: Recipe, changed: Recipe) -> dict[str, Any]:
    """The dotted keys in which two recipes differ, in the order of the recipe, with what `changed` has under them.

    Values are plain: JSON and YAML can write them.
    """

    def flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
        flattened = {}
        for name, value in values.items():
            is_section = isinstance(value, dict) and f"{prefix}{name}" not in known_keys
            flattened.update(flat(value, f"{prefix}{name}.") if is_section else {f"{prefix}{name}": value})
        return flattened

    known_keys = {key for key, _, _ in fields()}
    values, changed_values = flat(recipe.model_dump(mode="json")), flat(changed.model_dump(mode="json"))
    return {key: changed_values[key] for key in values if values[key] != changed_values[key]}


def json_schema() -> str:
    """Return the JSON Schema of a recipe, for editors; `python -m toolkit.cli.schema` prints it."""
    return json.dumps(Recipe.model_json_schema(), ensure_ascii=False, indent=2) + "\n"
