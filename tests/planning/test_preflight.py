"""Tests of the preflight: everything that would end training or export later is refused or reported before it."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from toolkit.errors import ExportError, ModelError, RecipeError
from toolkit.models.loading import load_base
from toolkit.models.precision import Precision
from toolkit.planning.preflight import run_preflight
from toolkit.recipe.schema import Recipe

MakeRecipe = Callable[..., Recipe]
Call = Callable[..., tuple[int, str, str]]


@pytest.fixture
def model(tiny_model: Path, tmp_path: Path) -> Path:
    """A copy of the tiny model's folder that a test may change."""
    return Path(shutil.copytree(tiny_model, tmp_path / "model"))


def edit_json(path: Path, **changes: Any) -> None:
    values = json.loads(path.read_text(encoding="utf-8")) | changes
    path.write_text(json.dumps({key: value for key, value in values.items() if value is not None}), encoding="utf-8")


def add_token(folder: Path, text: str, *, special: bool) -> int:
    """Add a token to tokenizer.json with the next free id, which is beyond the embedding, and return the id."""
    path = folder / "tokenizer.json"
    raw = json.loads(path.read_text(encoding="utf-8"))
    new_id = json.loads((folder / "config.json").read_text(encoding="utf-8"))["vocab_size"]
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    raw["added_tokens"].append({"id": new_id, "content": text, "special": special, **flags})
    path.write_text(json.dumps(raw), encoding="utf-8")
    return new_id


def write_template(folder: Path, token: str) -> None:
    template = "{% for m in messages %}{{ m.content }}" + token + "{% endfor %}"
    (folder / "chat_template.jinja").write_text(template, encoding="utf-8")


def test_tokens_beyond_the_embedding_are_refused(make_recipe: MakeRecipe, model: Path) -> None:
    token_id = add_token(model, "<|new|>", special=True)
    recipe = make_recipe(f"model.name={model}")
    assert run_preflight(recipe).tokens.rows, "a special token that no prompt uses does no harm"
    write_template(model, "<|new|>")
    with pytest.raises(ModelError, match=rf"'<\|new\|>' has id {token_id}, but .* has only {token_id} rows"):
        run_preflight(recipe)


def test_ordinary_tokens_beyond_embedding_are_refused(make_recipe: MakeRecipe, model: Path) -> None:
    """Any text of a later prediction could contain them."""
    add_token(model, "zzz", special=False)
    with pytest.raises(ModelError, match="'zzz' has id"):
        run_preflight(make_recipe(f"model.name={model}"))


def test_encoder_tokens_beyond_embedding_are_refused(
    make_encoder_recipe: MakeRecipe, tiny_encoder: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(tiny_encoder, tmp_path / "encoder"))
    edit_json(folder / "config.json", vocab_size=250)
    with pytest.raises(ModelError, match=r"has id 2\d\d, but the embedding .* has only 250 rows"):
        run_preflight(make_encoder_recipe(f"model.name={folder}"))


@pytest.mark.parametrize("tracker", ["wandb", "tensorboard", "trackio", "mlflow"])
def test_missing_trackers_are_refused(
    make_recipe: MakeRecipe, model: Path, tracker: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = make_recipe(f"model.name={model}", f"training.report_to={tracker}")
    monkeypatch.setattr("toolkit.planning.model_checks.is_tracker_installed", lambda _: False)
    with pytest.raises(RecipeError, match=f"training.report_to is {tracker}, but .* not installed") as error:
        run_preflight(recipe)
    assert f"pip install {tracker}" in str(error.value.hint)


def test_tokens_beyond_the_positions_are_refused(make_recipe: MakeRecipe, model: Path) -> None:
    """Unsloth would stretch the rotary embeddings, and the exported model would not."""
    edit_json(model / "config.json", max_position_embeddings=128)
    recipe = make_recipe(f"model.name={model}", "model.max_seq_length=129")
    with pytest.raises(RecipeError, match=r"max_seq_length is 129, but .* has 128 positions"):
        run_preflight(recipe)
    with pytest.raises(RecipeError, match="has 128 positions"):  # with an override of an evaluation
        load_base(model, recipe, Precision("float32", "test"))


def edit_weights(folder: Path, edit: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]) -> None:
    path = folder / "model.safetensors"
    save_file(edit(load_file(path)), path, metadata={"format": "pt"})


def to_8_bits(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: tensor.to(torch.float8_e4m3fn) for name, tensor in tensors.items()}


def change_split_rule(folder: Path) -> None:
    raw = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    raw["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"] = r"\w+|\W+"
    (folder / "tokenizer.json").write_text(json.dumps(raw), encoding="utf-8")


UNEXPORTABLE: dict[str, tuple[Callable[[Path], object], str]] = {
    "architecture": (lambda folder: edit_json(folder / "config.json", architectures=["OlmoForCausalLM"]),
                     "contains OlmoForCausalLM, which belongs to none of the families"),
    "rotary scaling": (lambda folder: edit_json(folder / "config.json", rope_parameters={
                        "rope_type": "dynamic", "factor": 2.0, "rope_theta": 10000.0}), "rotary scaling 'dynamic'"),
    "activation": (lambda folder: edit_json(folder / "config.json", hidden_act="gelu"), "the activation 'gelu'"),
    "split rule": (change_split_rule, "splits words by a rule"),
    "8-bit weights": (lambda folder: edit_weights(folder, to_8_bits), "is stored as F8_E4M3"),
    "unknown tensor": (lambda folder: edit_weights(folder, lambda tensors: tensors | {
                       "model.layers.0.self_attn.q_norm.weight": torch.ones(32)}), "does not belong to a Llama model"),
    "three quotation marks": (lambda folder: write_template(folder, '<|eot_id|>"""'), "three quotation marks in a row"),
}  # fmt: skip


@pytest.mark.parametrize(("edit", "message"), UNEXPORTABLE.values(), ids=UNEXPORTABLE.keys())
def test_impossible_export_is_reported_before_training(
    call: Call, recipe_file: Path, model: Path, tmp_path: Path, edit: Callable[[Path], object], message: str
) -> None:
    """The model is trained nevertheless, and the export ends with the reason that was reported."""
    import toolkit

    edit(model)
    problem = toolkit.preflight(recipe_file, {"model.name": str(model)}).export_problem
    assert problem and message in problem
    flags = (recipe_file, "--set", f"model.name={model}")
    code, out, _ = call("preflight", *flags)
    assert code == 0 and out.count(f"\nexport      not possible: {problem}\n") == 1
    code, out, err = call("sft", *flags, "--output-dir", tmp_path / "run")
    assert code == 0 and f"\nexport      not possible: {problem}\n" in out, err
    with pytest.raises(ExportError, match=message):
        toolkit.open_run(tmp_path / "run").export()


def test_possible_export_is_not_mentioned(make_recipe: MakeRecipe, model: Path) -> None:
    preflight = run_preflight(make_recipe(f"model.name={model}"))
    assert preflight.export_problem is None and "not possible" not in preflight.report()


def test_encoders_are_never_exported(make_encoder_recipe: MakeRecipe) -> None:
    assert run_preflight(make_encoder_recipe()).export_problem == "Only decoders can be exported."


def test_segments_beyond_the_embedding_are_refused(
    make_encoder_recipe: MakeRecipe, tiny_encoder: Path, tmp_path: Path
) -> None:
    """A tokenizer of BERT numbers the texts of a pair. RoBERTa and its relatives have one segment only."""
    folder = Path(shutil.copytree(tiny_encoder, tmp_path / "encoder"))
    raw = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    special = [["<s>", raw_id(raw, "<s>")], ["</s>", raw_id(raw, "</s>")]]
    raw["post_processor"] = {"type": "BertProcessing", "sep": special[1], "cls": special[0]}
    (folder / "tokenizer.json").write_text(json.dumps(raw), encoding="utf-8")
    names = ["input_ids", "token_type_ids"]
    edit_json(folder / "tokenizer_config.json", model_input_names=names, tokenizer_class="PreTrainedTokenizerFast")
    with pytest.raises(ModelError, match=r"from 0 to 1, but .* has 1 segment embeddings"):
        run_preflight(make_encoder_recipe(f"model.name={folder}"))


def raw_id(raw: dict[str, Any], token: str) -> int:
    return next(entry["id"] for entry in raw["added_tokens"] if entry["content"] == token)


@pytest.mark.parametrize("key", ["rms_norm_eps", "use_cache", "architectures"])
def test_invalid_configurations_are_named(make_recipe: MakeRecipe, model: Path, key: str) -> None:
    edit_json(model / "config.json", **{key: "x"})
    with pytest.raises(ModelError, match=rf"config.json cannot be read: Validation error for field '{key}'"):
        run_preflight(make_recipe(f"model.name={model}"))


@pytest.mark.parametrize("name", ["embedded:tiny-llama-fr", "folder"])
def test_revisions_of_local_models_are_refused(make_recipe: MakeRecipe, model: Path, name: str) -> None:
    name = str(model) if name == "folder" else name
    with pytest.raises(ModelError, match=r"model\.revision is 'v2', but .* is not a model on the Hub"):
        run_preflight(make_recipe(f"model.name={name}", "model.revision=v2"))
