"""Imported adapters: evaluated like the model that PEFT loads, compared, exported and sealed like a run's own."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import toolkit
from tests.foreign_adapters import (
    edit_config,
    like_axolotl,
    like_llama_factory,
    like_unsloth,
    train_decoder_adapter,
    train_with_peft,
)
from toolkit.data.examples import load_examples
from toolkit.models.backend import AutoModelForCausalLM, AutoModelForSequenceClassification, PeftModel
from toolkit.prompts.prompt_tokenizer import PromptTokenizer
from toolkit.prompts.sentence_pairs import PairTokenizer
from toolkit.prompts.tokenizer import load_tokenizer
from toolkit.recipe.schema import Recipe
from toolkit.runs.run_folder import RunFolder

MakeRecipe = Callable[..., Recipe]
Call = Callable[..., tuple[int, str, str]]
TOOLS: dict[str, Callable[[Path, Path], None]] = {
    "peft": lambda adapter, base: None,
    "unsloth": like_unsloth,
    "llama-factory": like_llama_factory,
    "axolotl": like_axolotl,
}
ATTENTION = ["q_proj", "k_proj", "v_proj", "o_proj"]


@pytest.fixture(scope="module")
def plain(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An adapter of the attention layers, trained with PEFT alone. Tests must not change it."""
    return train_decoder_adapter(tiny_model, tmp_path_factory.mktemp("plain") / "lora", target_modules=ATTENTION)


@pytest.fixture(scope="module")
def imported(
    plain: Path, make_recipe: MakeRecipe, tiny_model: Path, tmp_path_factory: pytest.TempPathFactory
) -> toolkit.Run:
    """A run of the plain adapter with an evaluation. Tests must not change it."""
    folder = tmp_path_factory.mktemp("imported") / "run"
    run = toolkit.import_adapter(plain, make_recipe(f"model.name={tiny_model}"), folder)
    run.evaluate()
    return run


def predict(run: toolkit.Run) -> np.ndarray:
    """Return the probabilities of the labels for the evaluation rows of a run's recipe."""
    with run.load() as classifier:
        return classifier.predict_proba([row.inputs for row in load_examples(run.recipe, run.recipe.data.eval)])


@torch.no_grad()
def expected_probabilities(adapter: Path, base: Path, recipe: Recipe) -> np.ndarray:
    """Score the labels with PEFT and transformers alone: one forward pass for each row and label."""
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    model = PeftModel.from_pretrained(model, str(adapter)).eval()
    prompt_tokenizer = PromptTokenizer(load_tokenizer(base), recipe.task, recipe.model.max_seq_length)
    scores = []
    for row in prompt_tokenizer.encode(load_examples(recipe, recipe.data.eval)):
        row_scores = []
        for answer in prompt_tokenizer.label_ids.values():
            logits = model(input_ids=torch.tensor([[*row.prompt, *answer]])).logits[0].double().log_softmax(-1)
            start = len(row.prompt) - 1
            row_scores.append(sum(float(logits[start + i, token]) for i, token in enumerate(answer)))
        scores.append(row_scores)
    return np.array(torch.tensor(scores).softmax(-1))


@pytest.mark.parametrize("tool", TOOLS)
def test_probabilities_equal_those_of_peft(
    tool: str, plain: Path, tiny_model: Path, make_recipe: MakeRecipe, tmp_path: Path
) -> None:
    adapter = Path(shutil.copytree(plain, tmp_path / "checkpoint-4"))
    TOOLS[tool](adapter, tiny_model)
    recipe = make_recipe(f"model.name={tiny_model}")
    run = toolkit.import_adapter(adapter, recipe, tmp_path / "run")
    expected = expected_probabilities(plain, tiny_model, recipe)
    np.testing.assert_allclose(predict(run), expected, atol=1e-5)
    assert np.ptp(expected, axis=0).max() > 0.05, "if rows had equal probabilities, any model would pass"
    assert run.record["imported"]["tools"] == {"peft": [], "unsloth": ["unsloth", "trl"]}.get(tool, [tool])
    files = {path.name for path in run.adapter.iterdir()}
    assert not {name for name in files if name.endswith((".pt", ".pth", ".bin"))} and "trainer_state.json" not in files


KINDS: dict[str, dict[str, Any]] = {
    "rsLoRA": {"target_modules": ["q_proj", "v_proj"], "use_rslora": True},
    "DoRA": {"target_modules": ["q_proj", "down_proj"], "use_dora": True},
    "all-linear": {"target_modules": "all-linear"},
    "pattern": {"target_modules": r".*\.layers\.\d+\.mlp\.(up|down)_proj"},
    "all layers by number": {"target_modules": ["gate_proj"], "layers_to_transform": [0, 1]},
    "gaussian": {"target_modules": ["k_proj"], "init_lora_weights": "gaussian"},
    "orthogonal": {"target_modules": ["k_proj"], "init_lora_weights": "orthogonal"},
}


@pytest.mark.parametrize("options", KINDS.values(), ids=KINDS.keys())
def test_options_of_peft_are_kept(
    options: dict[str, Any], tiny_model: Path, make_recipe: MakeRecipe, tmp_path: Path
) -> None:
    adapter = train_decoder_adapter(tiny_model, tmp_path / "lora", **options)
    recipe = make_recipe(f"model.name={tiny_model}")
    run = toolkit.import_adapter(adapter, recipe, tmp_path / "run")
    lora = run.recipe.lora
    assert (lora.r, lora.alpha, lora.dropout) == (8, 16, 0.05)
    assert (lora.use_rslora, lora.use_dora) == (options.get("use_rslora", False), options.get("use_dora", False))
    np.testing.assert_allclose(predict(run), expected_probabilities(adapter, tiny_model, recipe), atol=1e-5)


def test_imported_run_is_complete(imported: toolkit.Run, plain: Path) -> None:
    """Nothing about training is invented, and everything that is known is recorded."""
    record = imported.record
    assert record["status"] == "completed" and record["imported"]["source"] == "lora"
    assert record["imported"]["peft_version"] and set(record["imported"]["files"]) == {
        "adapter_config.json", "adapter_model.safetensors",
    }  # fmt: skip
    assert not {"timings", "steps", "final_loss", "batching", "peak_memory_bytes", "outlook"} & set(record)
    assert not (imported.path / "train_log.jsonl").exists()
    weights = "adapter_model.safetensors"
    assert (imported.adapter / weights).read_bytes() == (plain / weights).read_bytes()
    card = imported.model_card_path.read_text(encoding="utf-8")
    page = imported.report_path.read_text(encoding="utf-8")
    for text in (card, page):
        assert "trained elsewhere with PEFT" in text and "Its training rows are not known" in text
    for number in ("learning rate", "optimizer steps", "training time", "Trained on"):
        assert number not in card and number not in page.split("<details>")[0]
    assert "scripts/sft.py" not in page and "toolkit.import_adapter(" in page


def test_own_adapter_gives_identical_predictions(trained: RunFolder, tmp_path: Path) -> None:
    own = Path(shutil.copytree(trained.path, tmp_path / "own"))
    own_run = toolkit.open_run(own)
    own_run.evaluate()
    run = toolkit.import_adapter(own / "adapter", own / "recipe.yaml", tmp_path / "run")
    evaluation = run.evaluate()
    name = Path("eval") / "adapter" / "predictions.jsonl"
    assert (run.path / name).read_bytes() == (own / name).read_bytes()
    assert run.recipe == own_run.recipe
    comparison = toolkit.compare([evaluation, own_run.evaluations[0]])
    assert comparison.differing_rows == 0


def test_export_passes_the_parity_gate(imported: toolkit.Run, tmp_path: Path) -> None:
    copy = shutil.copytree(imported.path, tmp_path / "run")
    result = toolkit.open_run(copy).export("f16", verify=12)
    assert result.passed and result.agreement["gguf-f16"] == 1


@pytest.mark.parametrize("name", ["adapter/adapter_model.safetensors", "adapter/adapter_config.json", "run.json"])
def test_seal_finds_later_edits(imported: toolkit.Run, tmp_path: Path, name: str) -> None:
    copy = Path(shutil.copytree(imported.path, tmp_path / "run"))
    content = (copy / name).read_bytes()
    (copy / name).write_bytes(content.replace(b'"r": 8', b'"r": 4').replace(b'"seed": 42', b'"seed": 43')[:-1] + b" ")
    with pytest.raises(toolkit.SealError, match="has changed since"):
        toolkit.open_run(copy)


def test_seal_refuses_an_invented_log(imported: toolkit.Run, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(imported.path, tmp_path / "run"))
    (copy / "train_log.jsonl").write_text('{"step": 1, "loss": 0.5}\n', encoding="utf-8")
    with pytest.raises(toolkit.SealError, match=r"train_log\.jsonl has changed"):
        toolkit.open_run(copy).evaluate()


def test_moved_base_is_found_by_its_digests(plain: Path, tiny_model: Path, recipe_file: Path, tmp_path: Path) -> None:
    moved = Path(shutil.copytree(tiny_model, tmp_path / "moved"))
    overrides = {"model.name": "somebody/tiny-llama"}
    run = toolkit.import_adapter(plain, recipe_file, tmp_path / "run", base=moved, overrides=overrides)
    assert run.recipe.model.name == "somebody/tiny-llama" and run.record["model"]["folder"] == str(moved)
    assert run.evaluate(limit=4).metrics["n"] == 4
    assert f"--base {moved}" in " ".join(run.report_path.read_text(encoding="utf-8").split()) or "base=" in (
        run.report_path.read_text(encoding="utf-8")
    )
    assert toolkit.open_run(run.path, base=tiny_model).evaluate(limit=2).metrics["n"] == 2


def test_script_prints_changes_and_doubts(
    plain: Path, tiny_model: Path, recipe_file: Path, tmp_path: Path, call: Call
) -> None:
    adapter = Path(shutil.copytree(plain, tmp_path / "adapter"))
    like_axolotl(adapter, tiny_model)
    run = tmp_path / "run"
    arguments = [adapter, recipe_file, "--output-dir", run]
    code, out, error = call("import_adapter", *arguments, "--set", "data.calibration_share=0")
    assert code == 0, error
    assert "lora.r: 8 instead of 4, the value in the recipe" in out and "target_modules" not in out
    assert "tokenizer   the adapter's, equal to the base model's" in out and f"imported    {run}" in out
    assert "names the base model someone/renamed-base" in error and "all tensors fit" in error
    record = json.loads((run / "run.json").read_text(encoding="utf-8"))
    assert record["command"][1:] == list(map(str, [*arguments, "--set", "data.calibration_share=0"]))
    code, _, error = call("import_adapter", *arguments)
    assert code == 2 and "already exists" in error and "--overwrite" in error and "--resume" not in error
    assert call("import_adapter", *arguments, "--overwrite")[0] == 0
    code, _, error = call("sft", recipe_file, "--output-dir", run, "--resume")
    assert code == 2 and "imported from an adapter that another tool trained" in error and "--resume" in error
    page = (run / "recipe.yaml").read_text(encoding="utf-8")
    assert "r: 8" in page and "alpha: 16" in page


def test_run_is_not_replaced_by_its_own_adapter(imported: toolkit.Run, tmp_path: Path) -> None:
    run = Path(shutil.copytree(imported.path, tmp_path / "run"))
    with pytest.raises(toolkit.RunError, match=r"is in the run folder .* whose files would be replaced first"):
        toolkit.import_adapter(run / "adapter", run / "recipe.yaml", run, overwrite=True)
    assert (run / "adapter" / "adapter_model.safetensors").is_file()


def test_other_folders_cannot_be_overwritten(plain: Path, recipe_file: Path, tmp_path: Path) -> None:
    with pytest.raises(toolkit.RunError, match="already exists") as error:
        toolkit.import_adapter(plain, recipe_file, tmp_path)
    assert error.value.hint == "Choose another folder with output_dir."


def test_quantized_base_is_pointed_out(
    plain: Path, tiny_model: Path, recipe_file: Path, tmp_path: Path, call: Call
) -> None:
    adapter = Path(shutil.copytree(plain, tmp_path / "adapter"))
    like_unsloth(adapter, tiny_model)
    code, _, error = call("import_adapter", adapter, recipe_file, "--output-dir", tmp_path / "run")
    assert code == 0 and "was trained on 4-bit weights" in error and "names the base model" not in error


def test_another_base_is_refused(plain: Path, make_recipe: MakeRecipe, tmp_path: Path) -> None:
    """The embedded model has the same architecture and vocabulary but other sizes."""
    with pytest.raises(toolkit.ModelError, match=r"does not fit .*has the shape .* but the model needs"):
        toolkit.import_adapter(plain, make_recipe(), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_calibration_set_is_left_out(plain: Path, make_recipe: MakeRecipe, tiny_model: Path, tmp_path: Path) -> None:
    """The rows that would be held out may have been trained on."""
    recipe = make_recipe(f"model.name={tiny_model}", "data.calibration_share=0.25")
    run = toolkit.import_adapter(plain, recipe, tmp_path / "run")
    assert run.recipe.data.calibration_share == 0 and "calibration" not in run.record["data"]
    with pytest.raises(toolkit.RecipeError, match=r"calibration_share is 0\.3, but the adapter may have"):
        toolkit.import_adapter(plain, recipe, tmp_path / "other", overrides={"data.calibration_share": 0.3})


def test_dev_share_is_left_out(plain: Path, make_recipe: MakeRecipe, tiny_model: Path, tmp_path: Path) -> None:
    """Nothing is trained, so the keys that need dev rows have their default values."""
    keys = ("data.dev_share=0.25", "training.keep=best", "training.best_metric=accuracy", "training.eval_steps=5")
    recipe = make_recipe(f"model.name={tiny_model}", *keys, "training.early_stopping_patience=2")
    run = toolkit.import_adapter(plain, recipe, tmp_path / "run")
    assert not run.recipe.data.has_dev and "dev" not in run.record["data"]
    assert (run.recipe.training.keep, run.recipe.training.early_stopping_patience) == ("last", None)


def test_own_tokenizer_of_an_adapter_is_used(
    plain: Path, tiny_model: Path, make_recipe: MakeRecipe, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    adapter = Path(shutil.copytree(plain, tmp_path / "adapter"))
    tokenizer = load_tokenizer(tiny_model)
    tokenizer.chat_template += "{# the one it was trained with #}"
    tokenizer.save_pretrained(adapter)
    caplog.set_level("INFO", logger="toolkit")
    run = toolkit.import_adapter(adapter, make_recipe(f"model.name={tiny_model}"), tmp_path / "run")
    assert "the base model's has another chat template" in caplog.text
    assert load_tokenizer(run.adapter).chat_template == tokenizer.chat_template


@pytest.fixture(scope="module")
def encoder_adapter(tiny_encoder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An adapter and a head for three labels, trained with PEFT alone. Tests must not change it."""
    torch.manual_seed(0)
    model = AutoModelForSequenceClassification.from_pretrained(tiny_encoder, num_labels=3, dtype=torch.float32)
    ids = torch.randint(5, 200, (6, 12))
    folder = tmp_path_factory.mktemp("encoder") / "lora"
    options: dict[str, Any] = {"task_type": "SEQ_CLS", "target_modules": ["query", "value"]}
    return train_with_peft(model, folder, ids, torch.tensor([0, 1, 2, 0, 1, 2]), **options)


@torch.no_grad()
def test_encoder_equals_that_of_peft(
    encoder_adapter: Path, tiny_encoder: Path, make_encoder_recipe: MakeRecipe, tmp_path: Path
) -> None:
    recipe = make_encoder_recipe()
    run = toolkit.import_adapter(encoder_adapter, recipe, tmp_path / "run")
    run.evaluate()
    torch.manual_seed(3)  # the head that the adapter replaces is random
    model = AutoModelForSequenceClassification.from_pretrained(tiny_encoder, num_labels=3, dtype=torch.float32)
    model = PeftModel.from_pretrained(model, str(encoder_adapter)).eval()
    pair_tokenizer = PairTokenizer(load_tokenizer(tiny_encoder), recipe.task, recipe.model.max_seq_length)
    rows = pair_tokenizer.encode(load_examples(recipe, recipe.data.eval))
    logits = [model(**{key: torch.tensor([ids]) for key, ids in row.inputs().items()}).logits[0] for row in rows]
    np.testing.assert_allclose(predict(run), torch.stack(logits).softmax(-1).numpy(), atol=1e-5)
    assert "A LoRA adapter and a classification head" in run.model_card_path.read_text(encoding="utf-8")


def drop_head(adapter: Path) -> None:
    path = adapter / "adapter_model.safetensors"
    save_file({name: tensor for name, tensor in load_file(path).items() if "classifier" not in name}, path)


ENCODER_REFUSALS: dict[str, tuple[Callable[[Path], None], list[str], str]] = {
    "another number of labels": (
        lambda adapter: None,
        ["task.labels=[entailment, other]", "data.label_map={neutral: other, contradiction: other}"],
        r"has the shape \[3\], but the model needs \[2\]",
    ),
    "no head": (drop_head, [], r"does not contain base_model\.model\.classifier\.dense\.bias, so this part of the"),
    "a decoder's": (lambda adapter: edit_config(adapter, task_type="CAUSAL_LM"), [], "needs SEQ_CLS"),
}  # fmt: skip


@pytest.mark.parametrize(("edit", "overrides", "message"), ENCODER_REFUSALS.values(), ids=ENCODER_REFUSALS.keys())
def test_heads_that_do_not_fit_are_refused(
    encoder_adapter: Path, make_encoder_recipe: MakeRecipe, tmp_path: Path,
    edit: Callable[[Path], None], overrides: list[str], message: str,
) -> None:  # fmt: skip
    adapter = Path(shutil.copytree(encoder_adapter, tmp_path / "adapter"))
    edit(adapter)
    with pytest.raises(toolkit.ModelError, match=message):
        toolkit.import_adapter(adapter, make_encoder_recipe(*overrides), tmp_path / "run")
    assert not (tmp_path / "run").exists()
