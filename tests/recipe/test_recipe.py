"""Recipes: accepted values, rejected values with their messages, and the shipped recipes."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import ROOT
from toolkit.errors import RecipeError
from toolkit.recipe.loading import (
    build_recipe,
    describe_keys,
    diff_recipes,
    dump_recipe,
    format_override,
    json_schema,
    load_recipe,
)
from toolkit.recipe.schema import Recipe
from toolkit.recipe.yaml_parser import dump_yaml, parse_yaml

MakeRecipe = Callable[..., Recipe]


def test_shipped_recipes_load() -> None:
    recipes = sorted((ROOT / "recipes").rglob("*.yaml"))
    assert len(recipes) > 10
    for path in recipes:
        load_recipe(path)
        lines = path.read_text(encoding="utf-8").splitlines()
        assert lines[0] == "# yaml-language-server: $schema=../schema/recipe.schema.json"
        assert f"python scripts/sft.py recipes/{path.name}" in lines[2]


def test_reference_recipe_follows_the_study() -> None:
    recipe = load_recipe(ROOT / "recipes" / "nli_fr_reference.yaml")
    lora, training = recipe.lora, recipe.training
    assert (lora.r, lora.alpha, lora.dropout) == (16, 32, 0.05)
    assert lora.target_modules == ("q_proj", "k_proj", "v_proj", "o_proj")
    assert (training.epochs, training.batch_size, training.micro_batch_size) == (2, 16, 4)
    assert (training.learning_rate, training.warmup_ratio, training.loss_on) == (1e-4, 0.03, "full_text")
    assert (recipe.data.train.split, recipe.data.eval.split) == ("test", "validation")
    assert recipe.model.max_seq_length == 384 and not recipe.model.load_in_4bit


def test_schema_file_is_up_to_date() -> None:
    assert (ROOT / "schema" / "recipe.schema.json").read_text(encoding="utf-8") == json_schema()


def test_editors_accept_the_shipped_recipes() -> None:
    """The JSON Schema requires no key that a shipped recipe leaves out."""
    import yaml

    schema = json.loads(json_schema())

    def missing_keys(values: dict[str, Any], node: dict[str, Any]) -> list[str]:
        node = schema["$defs"][node["$ref"].rsplit("/", 1)[1]] if "$ref" in node else node
        missing = [key for key in node.get("required", []) if key not in values]
        children = {
            key: child for key, child in node.get("properties", {}).items() if isinstance(values.get(key), dict)
        }
        return missing + [name for key, child in children.items() for name in missing_keys(values[key], child)]

    for path in (ROOT / "recipes").glob("*.yaml"):
        assert missing_keys(yaml.safe_load(path.read_text(encoding="utf-8")), schema) == []
    assert missing_keys({"task": {}}, schema) == ["data", "model", "labels"]


def test_every_key_has_a_description() -> None:
    described = list(describe_keys())
    assert len(described) > 40
    assert [key for key, _, description in described if not description.endswith((".", ".)", ")"))] == []


def test_dumped_recipe_loads_back_equal(make_recipe: MakeRecipe, tmp_path: Path) -> None:
    odd = make_recipe(
        "task.labels=['1e4', 'no', 'null']",
        "task.verbalizers={'1e4': 'oui: non', 'no': '- x', 'null': '12'}",
        "data.label_map={0: no, 1: 'null'}",
        "task.date_string='2024-07-26'",
    )
    path = tmp_path / "again.yaml"
    path.write_text(dump_recipe(odd), encoding="utf-8")
    again = load_recipe(path)
    assert again.task.labels == ("1e4", "no", "null")
    assert again.model_dump(mode="json") == odd.model_dump(mode="json")


def test_numbers_follow_yaml_1_2(make_recipe: MakeRecipe) -> None:
    recipe = make_recipe("training.learning_rate=1e-4", "task.date_string=2024-07-26", "training.epochs=.5", "seed=010")
    assert recipe.seed == 10
    assert (recipe.training.learning_rate, recipe.task.date_string, recipe.training.epochs) == (1e-4, "2024-07-26", 0.5)


def test_overrides_can_be_plain_values() -> None:
    path, source = ROOT / "recipes" / "quickstart.yaml", {"path": "rows.csv", "limit": 3}
    recipe = load_recipe(path, {"training.max_steps": 50, "data.train": source, "task.labels": ["1e4", "no"]})
    assert (recipe.training.max_steps, recipe.data.train.limit, recipe.task.labels) == (50, 3, ("1e4", "no"))
    assert source == {"path": "rows.csv", "limit": 3}, "the caller's values must not change"
    changed = {key: value for key, value in diff_recipes(load_recipe(path), recipe).items() if "verbalizers" not in key}
    assert load_recipe(path, [format_override(*item) for item in changed.items()]) == recipe
    with pytest.raises(RecipeError, match=r"^seed\.x: 'seed' is not a section\."):
        load_recipe(path, {"seed": 1, "seed.x": 1})


def test_build_recipe_does_not_modify_its_values(make_recipe: MakeRecipe) -> None:
    values = make_recipe().model_dump(mode="json")
    assert build_recipe(values, "r", {"lora.r": 2}).lora.r == 2
    assert values == make_recipe().model_dump(mode="json")


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("training.learning_rate=abc", "training.learning_rate: 'abc' cannot be used; it should be a valid number."),
        ("lora.r=-4", "lora.r: -4 cannot be used; it should be greater than 0."),
        (
            "training.class_weights={neutral: 0, a: 0}",
            "0 cannot be used; it should be greater than or equal to 0.000001.",
        ),
        ("training.class_weights={neutral: 1e300}", "class_weights: 1e+300 cannot be used; it should be less than or"),
        ("training.class_weights={neutral: x}", "class_weights: 'x' cannot be used; it should be a valid number."),
        ("training.class_weights={}", "training.class_weights: has 0 values, but needs at least 1."),
        (
            "training.class_weights=equal",
            "'equal' cannot be used; it should be 'none' or 'balanced' or should be a mapping.",
        ),
        ("training.eval_steps={a: 1}", "{'a': 1} cannot be used; it should be 'auto' or should be a valid integer."),
        ("lora.r=true", "lora.r: True cannot be used; it should be a valid integer."),
        ("training.lr=1", "training.lr: not a key of section training; did you mean training.learning_rate?"),
        ("training.epoch=1", "training.epoch: not a key of section training; did you mean training.epochs?"),
        ("training.dropout=0", "training.dropout: not a key of section training; did you mean lora.dropout?"),
        ("modle={}", "modle: not a key of a recipe; did you mean model?"),
        ("zzz={}", "zzz: not a known key; a recipe has task, data, model, lora"),
        ("training.batching=prefix", "it should be 'auto', 'prefix_tree' or 'padded'."),
        ("export.gguf=[]", "export.gguf: has 0 values, but needs at least 1."),
        ("export.gguf=[q2_k]", "export.gguf: 'q2_k' cannot be used; it should be 'f32', 'f16', 'bf16', 'q8_0',"),
        ("task.labels=[a, a]", "task.labels: ['a', 'a'] lists a label twice"),
        ("task.labels=[0, 1, 2]", "task.labels: 0 is a number, not text; put such values in quotation marks."),
        ("task.labels=[a, 1e4]", "task.labels: 10000.0 is a number, not text; put such values in quotation marks."),
        ("task.labels=[true, false]", "task.labels: True is a truth value, not text; put such values in quotation"),
        ("data.label_map={0: 1}", "data.label_map: 1 is a number, not text; put such values in quotation marks."),
        ("data.label_map={0: true}", "data.label_map: True is a truth value, not text; put such values in quotation"),
        ("data.label_map={null: neutral}", "data.label_map: the key null matches no value; leave out rows without a"),
        ("data.label_map={true: neutral, 'True': neutral}", "the keys True and 'True' match the same values"),
        ("data.label_map={1.0: neutral, '1': neutral}", "the keys 1.0 and '1' match the same values in the data"),
        ("data.train.label_map={0: Neutral}", "data.train.label_map: 'Neutral' is not one of the labels"),
        ("data.eval.label_map={0: Neutral}", "did you mean 'neutral'? labels are case-sensitive."),
        ("task.labels=['1', '1.0']", "task.labels: '1' and '1.0' are the same label, because files write the same"),
        ("task.labels=['true', 'True']", "task.labels: 'true' and 'True' are the same label, because files write"),
        ("task.verbalizers={0: x}", "task.verbalizers: 0 is a number, not text; put such values in quotation marks."),
        ("model.revision=010", "model.revision: 10 is a number, not text; put such values in quotation marks."),
        ("task.labels=a", "task.labels: 'a' cannot be used; it should be a list."),
        ("task.labels=[a, 'b ']", "task.labels: 'b ' starts or ends with whitespace"),
        ("task.labels=[a, '']", "task.labels: a label is empty"),
        (
            "task.labels=[v\u00e9rit\u00e9, ve\u0301rite\u0301]",
            "task.labels: 'v\\xe9rit\\xe9' and 've\\u0301rite\\u0301' are two Unicode forms of the same text",
        ),
        (
            "task={labels: [\u00e9, a], verbalizers: {e\u0301: x, \u00e9: y, a: z}}",
            "task.verbalizers: its keys are",
        ),
        ("task.verbalizers={entailment: \u00e9, neutral: ' e\u0301', contradiction: x}", "are the same text"),
        ("task.verbalizers={'entailment ': a, neutral: b, contradiction: c}", "its keys are ['contradiction', 'ent"),
        ("data.label_map={0: ' neutral'}", "data.label_map: ' neutral' is not one of the labels"),
        ("data.label_map={0: ''}", "data.label_map: '' is not one of the labels"),
        ("data.label_map={'': neutral}", "data.label_map: the key '' is empty, or starts or ends with whitespace"),
        ("data.label_map={'0 ': neutral}", "data.label_map: the key '0 ' is empty, or starts or ends with whitespace"),
        ("data.label_map={0: neutral, '0': neutral}", "the keys 0 and '0' match the same values in the data"),
        ("data.label_map={1: neutral, '1': entailment}", "the keys 1 and '1' match the same values in the data"),
        ("data.label_map={\u00e9: neutral, e\u0301: neutral}", "the keys '\\xe9' and 'e\\u0301' match the same values"),
        ('task.labels=["a\\tb", c]', "task.labels: 'a\\tb' contains a control character such as a tab or a line break"),
        ('task.labels=["a\\nb", c]', "task.labels: 'a\\nb' contains a control character such as a tab or a line break"),
        (f"{'.'.join('a' * 2000)}=1", "small.yaml is nested too deeply."),
        (f"{'x' * 5000}=1", f"small.yaml: {'x' * 100}: not a known key"),
        ("lora.target_modules='(a+)+b'", "lora.target_modules: '(a+)+b' cannot be used; it should be 'auto' or"),
        ("lora.target_modules=['(a+)+b']", "lora.target_modules: '(a+)+b' is not a layer of a model of"),
        ("lora.target_modules=[q_porj]", "of a model of kind decoder; did you mean q_proj?"),
        (
            "lora=null",
            "lora: null trains all weights of an encoder, but a decoder is trained with an adapter; remove it.",
        ),
        ("evaluation.slice_by=genre", "evaluation.slice_by: 'genre' cannot be used; it should be a list."),
        ("task.verbalizers={entailment: x}", "task.verbalizers: its keys are ['entailment']"),
        ("task.user=rien", "task.user: has no placeholder, so every prompt would be the same; name the inputs of"),
        ("task.user='{premise} {hypothesis} {0.x}'", "task.user: {0.x} is not a name; write an input as {text}"),
        ("task.user='{premise:d} {hypothesis!r}'", "task.user: {premise:d} is not a name; write an input as {text}"),
        ("task.user='{label}'", "task.user: {label} is reserved; give the input another name"),
        ("task.user='{text'", "task.user: expected '}' before end of string; double each literal brace."),
        ("task.truncate=text", "task.truncate: 'text' is not an input of task.user; choose from premise, hypothesis."),
        ("data.columns.text=a", "data.columns: 'text' is not an input of task.user; its keys are premise, hypothesis,"),
        ("training.group_by=[text]", "training.group_by: 'text' is not an input of task.user; choose from premise,"),
        ("data.label_map={0: entailmnt}", "data.label_map: 'entailmnt' is not one of the labels"),
        ("model.name=''", "model.name: '' cannot be used"),
        ("training.micro_batch_size=3", "training.micro_batch_size: 3 does not divide batch_size 8"),
        (
            "training={batching: prefix_tree, micro_batch_size: 4}",
            "training.micro_batch_size: has no effect with batching prefix_tree",
        ),
        (
            "training={batching: padded, batch_tokens: 400}",
            "training.batch_tokens: has no effect with batching padded",
        ),
        ("task.chat_template=missing.jinja", "task.chat_template 'missing.jinja' is neither a file nor Jinja text."),
        ("task=3", "task: 3 is not a section"),
        ("seed", "overrides: 'seed' has no '='."),
        ("seed.x=1", "overrides: seed.x: 'seed' is not a section."),
        ("data.train=[", "overrides: data.train, line 1, column 2 is not valid YAML"),
    ],
)
def test_invalid_value_is_rejected_in_one_line(make_recipe: MakeRecipe, override: str, sentence: str) -> None:
    with pytest.raises(RecipeError) as error:
        make_recipe("seed=1", override)
    assert sentence in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        ({1: 2}, "overrides: 1 is not a key."),
        ({None: 2}, "overrides: None is not a key."),
        ([1], "overrides: 1 is not text."),
        ({"task.labels": {"a", "b"}}, "is a set, which has no order."),
        ({"evaluation.slice_by": frozenset({"a"})}, "is a set, which has no order."),
    ],
)
def test_invalid_override_from_python_is_rejected(overrides: Any, sentence: str) -> None:
    with pytest.raises(RecipeError) as error:
        load_recipe(ROOT / "recipes" / "quickstart.yaml", overrides)
    assert sentence in str(error.value)


@pytest.mark.parametrize(
    "key",
    [
        "data.train.limit", "model.max_seq_length", "lora.r", "lora.alpha", "training.epochs", "training.max_steps",
        "training.batch_size", "training.micro_batch_size", "training.batch_tokens", "training.save_steps",
        "training.save_total_limit", "evaluation.batch_tokens",
    ],
)  # fmt: skip
def test_absurdly_large_number_is_rejected(make_recipe: MakeRecipe, key: str) -> None:
    with pytest.raises(RecipeError, match=rf"{key}: 9+ cannot be used; it should be .*less than or equal to"):
        make_recipe(f"{key}={'9' * 99}")


def test_three_mistakes_are_reported_together(make_recipe: MakeRecipe) -> None:
    with pytest.raises(RecipeError) as error:
        make_recipe("lora.r=0", "training.learning_rate=abc", "model.nmae=x")
    assert len(str(error.value).splitlines()) == 3


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "is empty. A recipe must contain sections"),
        ("- a\n- b\n", "contains a list. A recipe must contain sections"),
        ("task:\n\tlabels: [a]\n", "a tab is used for indentation"),
        ("task: [a\n", "is not valid YAML"),
        ("a: 1\na: 2\n", "the key 'a' occurs twice"),
        ("a: &x 1\nb: *x\n", "aliases are not allowed in recipes"),
        ("a: !!python/object/apply:os.system ['true']\n", "is refused: tags such as"),
        ("a: " + "[" * 5000, "is not valid YAML"),
    ],
)
def test_invalid_yaml_is_rejected(tmp_path: Path, text: str, sentence: str) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(RecipeError, match=r"recipe\.yaml") as error:
        load_recipe(path)
    assert sentence in str(error.value)


def test_missing_and_undecodable_files_are_rejected(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"The recipe file .* does not exist"):
        load_recipe(tmp_path / "nothing.yaml")
    path = tmp_path / "latin.yaml"
    path.write_bytes("task: é".encode("latin-1"))
    with pytest.raises(RecipeError, match="is not UTF-8 text"):
        load_recipe(path)


def test_template_file_becomes_part_of_the_recipe(make_recipe: MakeRecipe, tmp_path: Path) -> None:
    path = tmp_path / "template.jinja"
    path.write_text("{{ bos_token }}", encoding="utf-8")
    assert make_recipe(f"task.chat_template={path}").task.chat_template == "{{ bos_token }}"


@pytest.mark.parametrize(
    "text", ["a\x85b", "a\u2028b", "a\u2029b", "a\nb\u2028c", "a\rb", "\ufeffa", "a: #b", "1.0", "true"]
)
def test_any_text_survives_yaml(text: str) -> None:
    """PyYAML folds the line breaks of Unicode unless they are escaped."""
    for value in ({"key": text}, {text: "value"}, [text, "other"]):
        assert parse_yaml(dump_yaml(value), "test") == value
