"""Reading, overriding, validating and writing recipes."""

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
_HINT = "For a description of every key, see: toolkit.Recipe.model_json_schema()"
_MAX_VALUE_CHARACTERS = 100
_MAX_REPORTED_MISTAKES = 20

# Names of these keys in other training libraries, for the suggestion in an error message.
_SYNONYMS = {
    "lr": "learning_rate", "rank": "r", "lora_r": "r", "lora_alpha": "alpha", "lora_dropout": "dropout",
    "num_train_epochs": "epochs", "num_epochs": "epochs", "model_name": "name", "max_length": "max_seq_length",
    "per_device_train_batch_size": "micro_batch_size", "lr_scheduler_type": "scheduler", "optim": "optimizer",
    "precision": "dtype",
}  # fmt: skip


Overrides = Sequence[str] | Mapping[str, Any]
"""Changes to a recipe: a list of `section.key=value` (values in YAML), or a mapping from dotted keys to values."""


def read_recipe_text(path: Path) -> str:
    """Read the text of a recipe file.

    Raises:
        RecipeError: If the file does not exist or is not text.
    """
    if not path.is_file():
        recipe_files = ", ".join(sorted(str(file) for file in Path("recipes").glob("*.yaml")))
        message = f"The recipe {path} is a folder." if path.is_dir() else f"The recipe file {path} does not exist."
        raise RecipeError(
            message, hint=f"Available recipes: {recipe_files}" if recipe_files else "Give the path of a .yaml file."
        )
    return _read_text(path)


def parse_recipe(text: str, where: str) -> dict[str, Any]:
    """Parse a recipe into plain values without validating them.

    Args:
        text: The recipe in YAML.
        where: The name of the recipe in error messages.

    Raises:
        RecipeError: If the text is not a YAML mapping.
    """
    values = parse_yaml(text, where)
    if not isinstance(values, dict):
        kind = "is empty" if values is None else f"contains a {type(values).__name__}"
        raise RecipeError(f"{where} {kind}. A recipe must contain sections such as `task:` and `model:`.", hint=_HINT)
    return values


def _read_text(path: Path) -> str:
    try:
        text = path.read_text(encoding="utf-8-sig")  # some editors write a byte order mark at the start
    except UnicodeDecodeError as error:
        raise RecipeError(f"{path} is not UTF-8 text (byte {error.start}).", hint="Save it as UTF-8.") from error
    if "\0" in text:
        raise RecipeError(
            f"{path} contains NUL characters, so it is not text.", hint="If it is UTF-16, save it as UTF-8."
        )
    return text


def _apply_overrides(values: dict[str, Any], overrides: Overrides) -> None:
    if isinstance(overrides, str) or not isinstance(overrides, (Mapping, Sequence)):
        raise RecipeError(
            f"overrides is {overrides!r}, which is neither a list nor a mapping.",
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
            raise RecipeError(f"{where}: {section!r} is not a section.", hint="Write section.key with its value.")
        values = child
    values[last] = value


def describe_keys(model: type[BaseModel] = Recipe, prefix: str = "") -> Iterator[tuple[str, str, str]]:
    """Yield the dotted key, the default as written in YAML, and the description of every key of a recipe, in order."""
    for name, field in model.model_fields.items():
        field_type = field.annotation
        if isinstance(field_type, type) and issubclass(field_type, BaseModel):
            yield from describe_keys(field_type, f"{prefix}{name}.")
        else:
            default = "required" if field.is_required() else json.dumps(field.get_default(call_default_factory=True))
            yield f"{prefix}{name}", default, field.description or ""


def _describe_error(error: Mapping[str, Any], known_keys: Sequence[str]) -> tuple[str, str]:
    """Return the dotted key of one of pydantic's errors, and a description of the mistake."""
    location = [str(component) for component in error["loc"]]
    if error["type"] == "extra_forbidden":
        return ".".join(location), _describe_unknown_key(location, known_keys)
    # pydantic appends list indices and the members of a union to the location, so the key is its longest known prefix.
    while len(location) > 1 and ".".join(location) not in known_keys and ".".join(location[:-1]) in known_keys:
        location.pop()
    if error["type"] == "missing":
        return ".".join(location), "missing; the recipe must set it"
    if error["type"] == "too_short":
        count, minimum = len(error["input"]), error["ctx"]["min_length"]
        return ".".join(location), f"has {count} values, but needs at least {minimum}"
    if error["type"] == "value_error":
        # One of our own validators; its message begins with the key, because a location names only the section.
        key, _, text = str(error["ctx"]["error"]).partition(": ")
        return key, text
    if error["type"] == "model_type":
        return ".".join(location), f"{_shorten(error['input'])} is not a section; write its keys and values"
    rule = error["msg"].removeprefix("Input ")
    return ".".join(location), f"{_shorten(error['input'])} cannot be used; it {rule[0].lower()}{rule[1:]}"


def _shorten(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= _MAX_VALUE_CHARACTERS else f"{text[: _MAX_VALUE_CHARACTERS - 3]}..."


def _describe_unknown_key(location: Sequence[str], known_keys: Sequence[str]) -> str:
    section, name = ".".join(location[:-1]), location[-1]
    canonical = _SYNONYMS.get(name, name)
    section_keys = (
        [key for key in known_keys if key.rpartition(".")[0] == section] if section else list(Recipe.model_fields)
    )
    # A typo in a key of this section is more likely than a key of another section.
    for keys in (section_keys, known_keys):
        names = {key.rsplit(".", 1)[-1]: key for key in reversed(keys)}  # of keys with the same name, the first wins
        if matches := difflib.get_close_matches(canonical, names, n=1, cutoff=0.7):
            return f"not a key of {f'section {section}' if section else 'a recipe'}; did you mean {names[matches[0]]}?"
    key_names = [key.rsplit(".", 1)[-1] for key in section_keys]
    return f"not a known key; {f'section {section}' if section else 'a recipe'} has {', '.join(key_names)}"


def _check_characters(value: Any, where: str, key: str = "") -> None:
    """Check that keys and values can be saved: NUL ends a C string, and a lone surrogate has no UTF-8 encoding."""
    if isinstance(value, dict):
        for name, child in value.items():
            _check_characters(child, where, f"{key}.{name}" if key else str(name))
            _check_characters(name, where, key)
    elif isinstance(value, list):
        for child in value:
            _check_characters(child, where, key)
    elif isinstance(value, str) and re.search("[\0\ud800-\udfff]", value):
        raise RecipeError(f"{where}: {key}: {_shorten(value)} contains a NUL or a lone surrogate.", hint="Remove it.")


def _validate(values: dict[str, Any], where: str) -> Recipe:
    try:
        return Recipe.model_validate(values)
    except ValidationError as error:
        known_keys = [key for key, _, _ in describe_keys()]
        mistakes: dict[str, list[str]] = {}
        errors = error.errors(include_url=False)
        for detail in errors:
            # pydantic drops invalid items before it counts, so an invalid item also makes its list "too short".
            if detail["type"] == "too_short" and any(item["loc"][:-1] == detail["loc"] for item in errors):
                continue
            key, text = _describe_error(detail, known_keys)
            mistakes.setdefault(key, []).append(text)
        raise RecipeError("\n".join(_format_mistakes(where, mistakes)), hint=_HINT) from error


def _format_mistakes(where: str, mistakes: Mapping[str, list[str]]) -> list[str]:
    lines = [
        f"{where}: {key}: {' or '.join(dict.fromkeys(_merge_messages(texts)))}.".replace("?.", "?")
        for key, texts in mistakes.items()
    ]
    omitted = len(lines) - _MAX_REPORTED_MISTAKES
    return lines if omitted <= 0 else [*lines[:_MAX_REPORTED_MISTAKES], f"{where}: {omitted:,} more mistakes."]


def _merge_messages(texts: Sequence[str]) -> list[str]:
    """Remove from all but the first message the beginning they share, since they are about the same value."""
    shared_beginning = texts[0].rpartition(" it ")[0] + " it "
    return [texts[0], *(text.removeprefix(shared_beginning) for text in texts[1:])]


def _resolve_paths(values: dict[str, Any]) -> None:
    """Make local paths absolute and replace a template file by its text, so that recipe.yaml works from any folder."""
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
    # Jinja text without a brace would be a constant, so such a text is a path.
    template = task.get("chat_template") if isinstance(task, dict) else None
    if isinstance(task, dict) and isinstance(template, str) and "{" not in template:
        if not Path(template).is_file():
            raise RecipeError(
                f"task.chat_template {template!r} is neither a file nor Jinja text.",
                hint="Give the path of a file, Jinja text, or null for the tokenizer's own template.",
            )
        task["chat_template"] = _read_text(Path(template))


def resolve_data_path(path: str) -> str:
    """Make the path of a local data file absolute; return a dataset id of the Hub or an embedded name unchanged."""
    return str(_absolute_path(path)) if path.endswith(LOCAL_SUFFIXES) else path


def _absolute_path(path: str) -> Path:
    # Path.expanduser raises if the user does not exist, and Path.resolve if symbolic links form a loop.
    return Path(os.path.realpath(os.path.expanduser(path)))  # noqa: PTH111


def load_recipe(path: str | Path, overrides: Overrides = ()) -> Recipe:
    """Load a recipe from a file and validate it.

    Args:
        path: The path of a YAML file.
        overrides: Changes to apply, see `Overrides`.

    Raises:
        RecipeError: If the recipe is invalid. The message has one line per mistake.
    """
    path = Path(path)
    return build_recipe(parse_recipe(read_recipe_text(path), str(path)), path.name, overrides)


def build_recipe(values: Mapping[str, Any], where: str, overrides: Overrides = ()) -> Recipe:
    """Build a validated recipe from plain values, which are not modified.

    Args:
        values: The recipe as returned by `parse_recipe`.
        where: The name of the recipe in error messages.
        overrides: Changes to apply, see `Overrides`.

    Raises:
        RecipeError: If the recipe is invalid. The message has one line per mistake.
    """
    changed = deepcopy(dict(values))
    _apply_overrides(changed, overrides)
    _check_characters(changed, where)
    _resolve_paths(changed)
    return _validate(changed, where)


def dump_recipe(recipe: Recipe) -> str:
    """Return the recipe as YAML from which `load_recipe` restores an equal recipe."""
    return dump_yaml(recipe.model_dump(mode="json"))


def format_override(key: str, value: Any) -> str:
    """Return the override `key=value` that sets a dotted key to a plain value."""
    return f"{key}={value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)}"


def diff_recipes(recipe: Recipe, changed: Recipe) -> dict[str, Any]:
    """Return the dotted keys in which two recipes differ, in order, with their plain values in `changed`."""

    def flatten(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
        flattened = {}
        for name, value in values.items():
            # A dictionary that is itself a key, such as task.verbalizers, is compared as a whole.
            is_section = isinstance(value, dict) and f"{prefix}{name}" not in known_keys
            flattened.update(flatten(value, f"{prefix}{name}.") if is_section else {f"{prefix}{name}": value})
        return flattened

    known_keys = {key for key, _, _ in describe_keys()}
    values, changed_values = flatten(recipe.model_dump(mode="json")), flatten(changed.model_dump(mode="json"))
    return {key: changed_values[key] for key in values if values[key] != changed_values[key]}


def json_schema() -> str:
    """Return the JSON Schema of a recipe for editors, as printed by `python -m toolkit.cli.schema`."""
    return json.dumps(Recipe.model_json_schema(), ensure_ascii=False, indent=2) + "\n"
