"""Reading, overriding, validating and writing recipes."""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from toolkit.errors import RecipeError
from toolkit.recipe.data_paths import absolute_path, resolve_data_path
from toolkit.recipe.mistakes import describe_mistakes, shorten
from toolkit.recipe.schema import Recipe
from toolkit.recipe.yaml_parser import dump_yaml, parse_yaml

_HINT = "For a description of every key, see: toolkit.Recipe.model_json_schema()"

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
            if not isinstance(key, str):
                raise RecipeError(f"overrides: {shorten(key)} is not a key.", hint='Write {"section.key": value}.')
            _set_key(values, key, key, deepcopy(value))
        return
    for assignment in overrides:
        if not isinstance(assignment, str):
            raise RecipeError(f"overrides: {shorten(assignment)} is not text.", hint='Write ["section.key=value"].')
        key, equals, text = assignment.partition("=")
        if not equals or not key.strip():
            raise RecipeError(f"overrides: {assignment!r} has no '='.", hint="Write section.key=value.")
        _set_key(values, key.strip(), f"overrides: {key}", parse_yaml(text, f"overrides: {key}"))


def _set_key(values: dict[str, Any], key: str, where: str, value: Any) -> None:
    *sections, last = key.split(".")
    for section in sections:
        child = values.setdefault(section, {})
        if child is None and section == "lora":
            raise RecipeError(
                f"{where}: has no effect, because lora: null trains all weights, without an adapter.",
                hint="Leave out one of the two.",
            )
        if child is None and section == "dev":  # a recipe without dev rows
            child = values["dev"] = {}
        if not isinstance(child, dict):
            raise RecipeError(f"{where}: {section!r} is not a section.", hint="Write section.key with its value.")
        values = child
    values[last] = value


def describe_keys(model: type[BaseModel] = Recipe, prefix: str = "") -> Iterator[tuple[str, str, str]]:
    """Yield the dotted key, the default as written in YAML, and the description of every key of a recipe, in order."""
    for name, field in model.model_fields.items():
        # An optional section, such as `LoraSection | None`, is also a key, which can be null.
        types = [field.annotation, *get_args(field.annotation)]
        section = next((item for item in types if isinstance(item, type) and issubclass(item, BaseModel)), None)
        if section is not field.annotation and section is not None:
            yield f"{prefix}{name}", "a section", field.description or ""
        if section is not None:
            yield from describe_keys(section, f"{prefix}{name}.")
        else:
            default = "required" if field.is_required() else json.dumps(field.get_default(call_default_factory=True))
            yield f"{prefix}{name}", default, field.description or ""


def check_characters(value: Any, where: str, key: str = "") -> None:
    """Check that keys and values can be saved: NUL ends a C string, and a lone surrogate has no UTF-8 encoding.

    Raises:
        RecipeError: If one of them cannot.
    """
    if isinstance(value, dict):
        for name, child in value.items():
            check_characters(child, where, f"{key}.{name}" if key else str(name))
            check_characters(name, where, key)
    elif isinstance(value, (set, frozenset)):  # labels would have another order in each process
        raise RecipeError(f"{where}: {key}: {shorten(value)} is a set, which has no order.", hint="Write a list.")
    elif isinstance(value, (list, tuple)):
        for child in value:
            check_characters(child, where, key)
    elif isinstance(value, str) and re.search("[\0\ud800-\udfff]", value):
        raise RecipeError(f"{where}: {key}: {shorten(value)} contains a NUL or a lone surrogate.", hint="Remove it.")


def _validate(values: dict[str, Any], where: str) -> Recipe:
    try:
        return Recipe.model_validate(values)
    except ValidationError as error:
        known_keys = [key for key, _, _ in describe_keys()]
        raise RecipeError(describe_mistakes(error, where, known_keys), hint=_HINT) from error


def _resolve_paths(values: dict[str, Any]) -> None:
    """Make local paths absolute and replace a template file by its text, so that recipe.yaml works from any folder."""
    for split in ("train", "dev", "eval"):
        source = values.get("data", {}).get(split) if isinstance(values.get("data"), dict) else None
        if not isinstance(source, dict):
            continue
        path = source.get("path")
        if isinstance(path, str):
            source["path"] = resolve_data_path(path)
        elif isinstance(path, (list, tuple)):  # anything but text in it is reported later
            source["path"] = [resolve_data_path(file) if isinstance(file, str) else file for file in path]
    model, task = values.get("model"), values.get("task")
    if (
        isinstance(model, dict)
        and model.get("name")
        and isinstance(model["name"], str)
        and absolute_path(model["name"]).is_dir()
    ):
        model["name"] = str(absolute_path(model["name"]))
    # Jinja text without a brace would be a constant, so such a text is a path.
    template = task.get("chat_template") if isinstance(task, dict) else None
    if isinstance(task, dict) and isinstance(template, str) and "{" not in template:
        if not Path(template).is_file():
            raise RecipeError(
                f"task.chat_template {template!r} is neither a file nor Jinja text.",
                hint="Give the path of a file, Jinja text, or null for the tokenizer's own template.",
            )
        task["chat_template"] = _read_text(Path(template))


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
    try:
        changed = deepcopy(dict(values))
        _apply_overrides(changed, overrides)
        check_characters(changed, where)
    except RecursionError as error:
        raise RecipeError(f"{where} is nested too deeply.", hint="A recipe has sections with keys.") from error
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
            # A dictionary that is not a section, such as task.verbalizers, is compared as a whole.
            is_section = isinstance(value, dict) and f"{prefix}{name}." in section_prefixes
            flattened.update(flatten(value, f"{prefix}{name}.") if is_section else {f"{prefix}{name}": value})
        return flattened

    section_prefixes = {key[: i + 1] for key, _, _ in describe_keys() for i in range(len(key)) if key[i] == "."}
    values, changed_values = flatten(recipe.model_dump(mode="json")), flatten(changed.model_dump(mode="json"))
    # Only one of the two has the keys of a section that is null in the other.
    return {key: value for key, value in changed_values.items() if key not in values or values[key] != value}


def json_schema() -> str:
    """Return the JSON Schema of a recipe for editors, as printed by `python -m toolkit.cli.schema`."""
    return json.dumps(Recipe.model_json_schema(), ensure_ascii=False, indent=2) + "\n"
