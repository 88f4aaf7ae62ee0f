"""The two kinds of model in a recipe: a short encoder's recipe loads, and a key without effect is refused."""

from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from tests.conftest import ENCODER_RECIPE, ROOT
from toolkit.errors import RecipeError, RunError
from toolkit.recipe.loading import dump_recipe, load_recipe
from toolkit.recipe.model_kind import require_decoder
from toolkit.recipe.schema import Recipe

Load = Callable[..., Recipe]


@pytest.fixture
def load(tmp_path: Path) -> Load:
    path = tmp_path / "encoder.yaml"
    values = {**ENCODER_RECIPE, "model": {"kind": "encoder", "name": "almanach/camembert-base"}}
    path.write_text(yaml.safe_dump(values), encoding="utf-8")
    return lambda *overrides: load_recipe(path, overrides)


def test_an_encoders_recipe_needs_no_prompt_and_reads_back_equal(load: Load, tmp_path: Path) -> None:
    recipe = load()
    assert recipe.lora.target_modules == ("query", "value")
    (tmp_path / "again.yaml").write_text(dump_recipe(recipe), encoding="utf-8")
    assert load_recipe(tmp_path / "again.yaml") == recipe


def test_a_decoders_recipe_still_needs_its_prompt(load: Load) -> None:
    with pytest.raises(RecipeError) as refused:
        load("model.kind=decoder", "lora.target_modules=[q_proj]")
    assert str(refused.value).splitlines() == [
        "encoder.yaml: task.system: missing; the recipe must give it.",
        "encoder.yaml: task.user: missing; the recipe must give it.",
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
def test_a_key_without_effect_on_an_encoder_is_refused(load: Load, override: str) -> None:
    with pytest.raises(RecipeError) as refused:
        load(override)
    key = override.partition("=")[0]
    assert str(refused.value).startswith(f"encoder.yaml: {key}: has no effect with model.kind encoder: ")
    assert len(str(refused.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("training.batching=prefix_tree", "training.batching: prefix_tree cannot be used with model.kind encoder"),
        ("lora.target_modules=[q_proj, value]", "lora.target_modules: 'q_proj' is no layer of a model of kind encoder"),
        ("model.kind=other", "model.kind: 'other' cannot be used; it should be 'decoder' or 'encoder'."),
    ],
)
def test_what_an_encoder_cannot_use_is_refused(load: Load, override: str, sentence: str) -> None:
    with pytest.raises(RecipeError) as refused:
        load(override)
    assert sentence in str(refused.value) and len(str(refused.value).splitlines()) == 1


def test_an_encoders_layer_is_none_of_a_decoder() -> None:
    with pytest.raises(RecipeError, match="'query' is no layer of a model of kind decoder; choose from q_proj"):
        load_recipe(ROOT / "recipes" / "nli_fr.yaml", ["lora.target_modules=[query]"])


def test_mistakes_of_several_keys_are_reported_together(load: Load) -> None:
    with pytest.raises(RecipeError) as refused:
        load("task.system=x", "model.load_in_4bit=true", "data.label_map={0: nothing}")
    assert len(str(refused.value).splitlines()) == 3


def test_what_needs_a_decoder_says_so() -> None:
    require_decoder("decoder", "--mode free")
    with pytest.raises(RunError, match="--mode free needs a model that writes text, but this run"):
        require_decoder("encoder", "--mode free")
