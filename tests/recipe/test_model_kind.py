"""The two kinds of model in a recipe: a short recipe of an encoder loads, and a key without effect is rejected."""

from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from tests.conftest import ENCODER_RECIPE, ROOT
from toolkit.errors import RecipeError, RunError
from toolkit.recipe.loading import diff_recipes, dump_recipe, load_recipe
from toolkit.recipe.model_kind import require_decoder
from toolkit.recipe.schema import Recipe

Load = Callable[..., Recipe]


@pytest.fixture
def load(tmp_path: Path) -> Load:
    path = tmp_path / "encoder.yaml"
    values = {**ENCODER_RECIPE, "model": {"kind": "encoder", "name": "almanach/camembert-base"}}
    path.write_text(yaml.safe_dump(values), encoding="utf-8")
    return lambda *overrides: load_recipe(path, overrides)


def test_encoder_recipe_needs_no_prompt(load: Load, tmp_path: Path) -> None:
    """A recipe of an encoder needs neither task.system nor task.user, and survives a round trip through YAML."""
    recipe = load()
    assert recipe.lora is not None and recipe.lora.target_modules == "auto"
    (tmp_path / "again.yaml").write_text(dump_recipe(recipe), encoding="utf-8")
    assert load_recipe(tmp_path / "again.yaml") == recipe


def test_decoder_recipe_needs_a_prompt(load: Load) -> None:
    with pytest.raises(RecipeError) as error:
        load("model.kind=decoder", "lora.target_modules=[q_proj]")
    assert str(error.value).splitlines() == [
        "encoder.yaml: task.system: missing; the recipe must set it.",
        "encoder.yaml: task.user: missing; the recipe must set it.",
    ]


@pytest.mark.parametrize(
    "override",
    [
        "task.system=Compare.",
        "task.user='{premise} / {hypothesis}'",
        "task.verbalizers={entailment: oui, neutral: peut-être, contradiction: non}",
        "task.chat_template='{{ messages }}'",
        "task.date_string=null",
        "model.load_in_4bit=true",
        "training.loss_on=full_text",
        "training.batch_tokens=400",
        "export.gguf=[f16]",
    ],
)
def test_key_without_effect_on_an_encoder_is_rejected(load: Load, override: str) -> None:
    with pytest.raises(RecipeError) as error:
        load(override)
    key = override.partition("=")[0]
    assert str(error.value).startswith(f"encoder.yaml: {key}: has no effect with model.kind encoder")
    assert len(str(error.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("training.batching=prefix_tree", "training.batching: prefix_tree cannot be used with model.kind encoder"),
        ("model.kind=other", "model.kind: 'other' cannot be used; it should be 'decoder' or 'encoder'."),
    ],
)
def test_value_unusable_by_an_encoder_is_rejected(load: Load, override: str, sentence: str) -> None:
    with pytest.raises(RecipeError) as error:
        load(override)
    assert sentence in str(error.value) and len(str(error.value).splitlines()) == 1


@pytest.mark.parametrize("user", ["{text}", "{target}{text}", "{a}\\n{b}"])
def test_encoder_reads_one_text_or_a_pair(load: Load, user: str) -> None:
    assert len(load(f'task.user="{user}"').task.inputs) == user.count("{")


def test_encoder_rejects_three_inputs(load: Load) -> None:
    with pytest.raises(RecipeError, match=r"task\.user: has 3 inputs \(a, b, c\), but an encoder reads one text or a"):
        load("task.user='{a} {b} {c}'")


def test_decoder_has_no_encoder_layers() -> None:
    with pytest.raises(RecipeError, match="'query' is not a layer of a model of kind decoder; choose from q_proj"):
        load_recipe(ROOT / "recipes" / "nli_fr.yaml", ["lora.target_modules=[query]"])


def test_auto_means_a_decoders_attention() -> None:
    """A decoder's layers are known without its model, so the saved recipe has their names, as in earlier versions."""
    recipe = load_recipe(ROOT / "recipes" / "nli_fr.yaml", ["lora.target_modules=auto"])
    assert recipe.lora is not None and recipe.lora.target_modules == ("q_proj", "k_proj", "v_proj", "o_proj")


def test_learning_rate_depends_on_the_adapter(load: Load, tmp_path: Path) -> None:
    assert load().training.learning_rate == 1e-2, "as the recipe sets it"
    whole = load("training={max_steps: 3}", "lora=null")
    assert whole.lora is None and whole.training.learning_rate == 5e-5
    assert load("training={max_steps: 3}").training.learning_rate == 1e-4
    (tmp_path / "again.yaml").write_text(dump_recipe(whole), encoding="utf-8")
    assert load_recipe(tmp_path / "again.yaml") == whole
    assert diff_recipes(load(), load("lora=null")) == {"lora": None}


def test_keys_of_a_missing_adapter_are_refused(load: Load) -> None:
    with pytest.raises(RecipeError, match=r"lora\.r: has no effect, because lora: null trains all weights"):
        load("lora=null", "lora.r=8")


def test_mistakes_in_several_keys_are_reported_together(load: Load) -> None:
    with pytest.raises(RecipeError) as error:
        load("task.system=x", "model.load_in_4bit=true", "data.label_map={0: nothing}")
    assert len(str(error.value).splitlines()) == 3


def test_require_decoder_rejects_an_encoder() -> None:
    require_decoder("decoder", "--mode free")
    with pytest.raises(RunError, match="--mode free needs a model that generates text, but this run"):
        require_decoder("encoder", "--mode free")
