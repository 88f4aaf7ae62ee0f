"""A strict YAML subset for recipes: YAML 1.2 scalars, no tags, no aliases and no repeated keys."""

import re
from typing import Any, ClassVar

import yaml

from toolkit.errors import RecipeError, first_line

# The core schema of YAML 1.2. PyYAML implements YAML 1.1, where 1e-4 is a string, `no` is false and 12:30 is a number.
# Each tag has a pattern and the characters a matching scalar can start with.
_CORE_SCHEMA = {
    "tag:yaml.org,2002:null": (r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    "tag:yaml.org,2002:bool": (r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    "tag:yaml.org,2002:int": (r"[-+]?[0-9]+", list("-+0123456789")),
    "tag:yaml.org,2002:float": (
        r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
        list("-+.0123456789"),
    ),
}
_HINTS = {
    "aliases": "Write out the value in each place.",
    "tags": "Write the plain value.",
    "twice": "Keep one of the two.",
    "tab": "Indent with spaces.",
}
_HINT = "Compare with a file in recipes/. Put text with special characters in quotation marks."
_MAX_CHARACTERS = 200_000  # a recipe has a few thousand
_MAX_DIGITS = 100  # Python refuses to convert more than 4,300 digits, with an error that does not name the line


class _Loader(yaml.SafeLoader):
    """A SafeLoader with YAML 1.2 scalars that rejects repeated keys, aliases and tags."""

    yaml_implicit_resolvers: ClassVar[dict[str, Any]] = {}

    def compose_node(self, parent: Any, index: Any) -> Any:
        event = self.peek_event()
        # Nested aliases make a short text expand to gigabytes ("billion laughs").
        if isinstance(event, yaml.AliasEvent):
            raise yaml.MarkedYAMLError(problem="aliases are not allowed in recipes", problem_mark=event.start_mark)
        # A tag calls its constructor, and some constructors raise undocumented exceptions.
        if tag := getattr(event, "tag", None):
            raise yaml.MarkedYAMLError(
                problem=f"tags such as {tag!r} are not allowed in recipes", problem_mark=event.start_mark
            )
        return super().compose_node(parent, index)

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        # PyYAML silently keeps the last of several equal keys.
        keys = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if isinstance(key, (list, dict)):
                raise yaml.MarkedYAMLError(problem="a key is not a plain value", problem_mark=key_node.start_mark)
            if key in keys:
                problem = f"the key {key!r} occurs twice in one section"
                raise yaml.MarkedYAMLError(problem=problem, problem_mark=key_node.start_mark)
            keys.add(key)
        return super().construct_mapping(node, deep=deep)


class _Dumper(yaml.SafeDumper):
    """The counterpart of the loader, which quotes exactly the strings that the loader would read as another type."""

    yaml_implicit_resolvers: ClassVar[dict[str, Any]] = {}


def _construct_integer(_: Any, node: Any) -> int:
    if len(node.value) > _MAX_DIGITS:
        problem = f"a number has {len(node.value):,} digits"
        raise yaml.MarkedYAMLError(problem=problem, problem_mark=node.start_mark)
    return int(node.value)  # decimal even with a leading 0, which means octal in YAML 1.1


_Loader.add_constructor("tag:yaml.org,2002:int", _construct_integer)
for _tag, (_pattern, _first_characters) in _CORE_SCHEMA.items():
    for _class in (_Loader, _Dumper):
        _class.add_implicit_resolver(_tag, re.compile(f"^(?:{_pattern})$"), _first_characters)


def _represent_text(dumper: Any, text: str) -> Any:
    # PyYAML folds Unicode's other line breaks (next line, line separator, paragraph separator) unless they are escaped.
    style = '"' if re.search("[\x85\u2028\u2029]", text) else "|" if "\n" in text else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _represent_text)


def parse_yaml(text: str, where: str) -> Any:
    """Parse a YAML document.

    Args:
        text: The document.
        where: The name of the document in error messages.

    Raises:
        RecipeError: If the text is not valid YAML or uses features that recipes do not allow.
    """
    if len(text) > _MAX_CHARACTERS:
        raise RecipeError(
            f"{where} has {len(text):,} characters, which is too long for a recipe.",
            hint="Put rows into a data file.",
        )
    try:
        return yaml.load(text, Loader=_Loader)  # noqa: S506 - a SafeLoader subclass
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        position = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        problem = error.problem or "it cannot be parsed"
        if "\\t" in problem:
            problem = "a tab is used for indentation"
        hint = next((hint for word, hint in _HINTS.items() if word in problem), _HINT)
        # Aliases and tags are valid YAML, but not allowed here.
        verb = "is refused" if "not allowed" in problem else "is not valid YAML"
        raise RecipeError(f"{where}{position} {verb}: {problem}.", hint=hint) from error
    except RecursionError as error:
        raise RecipeError(f"{where} is not valid YAML: it is nested too deeply.", hint="Close each bracket.") from error
    except (yaml.YAMLError, ValueError) as error:
        raise RecipeError(f"{where} is not valid YAML: {first_line(error)}.", hint=_HINT) from error


def dump_yaml(value: Any) -> str:
    """Return a plain value as YAML from which `parse_yaml` restores an equal value."""
    return yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120)
