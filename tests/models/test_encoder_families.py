"""Each family of encoders, from the layers that `auto` takes to a run that is trained, resumed and scored."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file

from tests.models.encoder_families import FAMILIES, EncoderFamily, save_encoder
from toolkit.errors import RecipeError
from toolkit.inference.classifier import Classifier
from toolkit.models.encoder import attach_encoder_lora, head_modules, load_encoder, max_input_length
from toolkit.models.lora_targets import resolve_targets
from toolkit.models.precision import Precision
from toolkit.recipe.schema import LoraSection, Recipe
from toolkit.runs.run_folder import RunFolder
from toolkit.runs.trained_run import TrainedRun
from toolkit.training.training_run import TrainingOptions, train_run

MakeRecipe = Callable[..., Recipe]
FLOAT32 = Precision("float32", "test")
ROWS = [("Un chat dort.", "Un animal dort."), ("Il pleut sur la ville.", "Il neige."), ("Un homme court.", "Il court.")]
each_family = pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Callable[[EncoderFamily], Path]:
    saved: dict[str, Path] = {}

    def find(family: EncoderFamily) -> Path:
        if family.name not in saved:
            saved[family.name] = save_encoder(family, tmp_path_factory.mktemp("encoders") / family.name)
        return saved[family.name]

    return find


@each_family
def test_auto_finds_queries_and_values(
    make_encoder_recipe: MakeRecipe, folders: Callable[[EncoderFamily], Path], family: EncoderFamily
) -> None:
    """Two layers get an adapter on each target, and the head, which is not pre-trained, is trained in full."""
    recipe = make_encoder_recipe(f"model.name={folders(family)}")
    model = load_encoder(folders(family), recipe, FLOAT32)
    assert recipe.lora is not None and recipe.lora.target_modules == "auto"
    assert resolve_targets(model, recipe.lora) == family.targets
    assert sorted(head_modules(model)) == sorted(family.head)
    assert max_input_length(model) == family.longest
    trained = [
        name for name, p in attach_encoder_lora(model, recipe.lora, seed=1).named_parameters() if p.requires_grad
    ]
    adapted = [name for name in trained if "lora_" in name]
    assert {name.split(".")[-4] for name in adapted} == set(family.targets)
    assert len(adapted) == 2 * 2 * len(family.targets)
    assert {name for name in family.head if any(f"{name}.modules_to_save" in parameter for parameter in trained)} == {
        *family.head
    }


@each_family
@pytest.mark.parametrize("lora", ["{r: 4, alpha: 8}", "null"], ids=["lora", "full"])
def test_family_is_trained_resumed_and_scored(
    make_encoder_recipe: MakeRecipe,
    folders: Callable[[EncoderFamily], Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    family: EncoderFamily,
    lora: str,
) -> None:
    """A resumed run gives the bytes of an uninterrupted one, and a row's scores do not depend on padding."""
    recipe = make_encoder_recipe(
        f"model.name={folders(family)}", f"lora={lora}", "training.max_steps=2", "training.save_steps=1",
        "data.train.limit=16", "training.learning_rate=0.01",
    )  # fmt: skip
    whole, resumed = RunFolder(tmp_path / "whole"), RunFolder(tmp_path / "resumed")
    train_run(recipe, whole, TrainingOptions())
    interrupt_after(1, monkeypatch, lambda: train_run(recipe, resumed, TrainingOptions()))
    train_run(recipe, resumed, TrainingOptions(resume=True))
    name = "model.safetensors" if lora == "null" else "adapter_model.safetensors"
    assert (whole.adapter / name).read_bytes() == (resumed.adapter / name).read_bytes()
    assert whole.record["target_modules"] == ([] if lora == "null" else sorted(family.targets))
    assert sum(t.numel() for t in load_file(whole.adapter / name).values()) == whole.record["trainable_parameters"]
    with Classifier(TrainedRun.open(whole.path)) as classifier:
        together = classifier.predict_proba(ROWS)
        alone = np.concatenate([classifier.predict_proba([row]) for row in ROWS])
    np.testing.assert_allclose(together, alone, atol=1e-5)
    assert np.ptp(together, axis=0).max() > 1e-3, "rows have the same scores"


def interrupt_after(step: int, monkeypatch: pytest.MonkeyPatch, train: Callable[[], None]) -> None:
    from toolkit.training.callbacks import Progress

    advance = Progress.on_step_end

    def on_step_end(self: Progress, args: object, state: object, control: object, **rest: object) -> None:
        advance(self, args, state, control, **rest)
        if state.global_step == step + 1:  # type: ignore[attr-defined]
            raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Progress, "on_step_end", on_step_end)
        train()


def test_unknown_names_list_the_linear_layers(
    make_encoder_recipe: MakeRecipe, folders: Callable[[EncoderFamily], Path]
) -> None:
    family = FAMILIES[-2]
    model = load_encoder(folders(family), make_encoder_recipe(f"model.name={folders(family)}"), FLOAT32)
    layers = "Its linear layers are k_lin, lin1, lin2, out_lin, q_lin, v_lin"
    with pytest.raises(RecipeError, match=f"'query' is not a layer of DistilBertModel. {layers}"):
        resolve_targets(model, LoraSection(target_modules=("query",)))
    assert resolve_targets(model, LoraSection(target_modules=("lin1", "q_lin"))) == ("lin1", "q_lin")
    for block in model.base_model.transformer.layer:  # as in a family that is not in the table
        block.attention.attend = block.attention.q_lin
        del block.attention.q_lin
    with pytest.raises(RecipeError, match=r"auto does not know the attention layers of DistilBertModel"):
        resolve_targets(model, LoraSection(target_modules="auto"))
