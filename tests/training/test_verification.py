"""Tests of the verification before the first step, which detects backends that ignore the mask of a tree."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from transformers.models.llama.modeling_llama import LlamaModel

from tests.training.test_objective import FLOAT32, ROWS, model_with_adapter
from toolkit.batching.collators import TreeAttention
from toolkit.batching.sampling import LENGTH_MULTIPLES
from toolkit.errors import TrainingError
from toolkit.models.tree_attention import UNSLOTH_FLAGS, accept_trees
from toolkit.recipe.schema import Recipe
from toolkit.runs.run_folder import RunFolder
from toolkit.training.training_run import TrainingOptions, train_run
from toolkit.training.verification import verify_tree

MakeRecipe = Callable[..., Recipe]


@pytest.fixture
def dropped_masks(monkeypatch: pytest.MonkeyPatch) -> None:
    """A model that ignores its mask, as Unsloth's fused forward does in training unless a flag is set."""
    forward = LlamaModel.forward

    def without_mask(self: Any, *args: Any, attention_mask: Any = None, tree_layout: Any = None, **kwargs: Any) -> Any:
        return forward(self, *args, attention_mask=None, **kwargs)

    monkeypatch.setattr(LlamaModel, "forward", without_mask)


@pytest.mark.parametrize("attention", get_args(TreeAttention))
@pytest.mark.parametrize(("loss_on", "multiple"), [("completion", 1), ("full_text", 1), ("full_text", 128)])
def test_correct_tree_passes_without_side_effects(
    tiny_model: Path, make_recipe: Any, loss_on: Any, multiple: int, attention: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Lengths of trees are multiples of 128 on a GPU."""
    monkeypatch.setitem(LENGTH_MULTIPLES, ("cpu", 4), multiple)
    model = model_with_adapter(tiny_model, make_recipe()).eval()
    state = torch.random.get_rng_state()
    verification = verify_tree(model, ROWS, loss_on, FLOAT32, attention)
    assert verification.passed and verification.gradient_difference is not None
    assert 0 <= verification.gradient_difference < 1e-5
    assert torch.equal(state, torch.random.get_rng_state()) and not model.training
    assert all(parameter.grad is None for parameter in model.parameters())


def test_dropout_is_off_only_during_verification(tiny_model: Path, make_recipe: Any) -> None:
    from toolkit.models.loading import attach_lora, load_base
    from toolkit.recipe.schema import LoraSection

    model = attach_lora(
        load_base(tiny_model, make_recipe(), FLOAT32), LoraSection(dropout=0.5), seed=1, gradient_checkpointing=False
    )
    accept_trees(model)
    assert verify_tree(model, ROWS, "completion", FLOAT32).passed
    assert {module.p for module in model.modules() if isinstance(module, torch.nn.Dropout)} == {0.5}


@pytest.mark.parametrize("attention", get_args(TreeAttention))
def test_tree_without_mask_fails(tiny_model: Path, make_recipe: Any, dropped_masks: None, attention: Any) -> None:
    verification = verify_tree(model_with_adapter(tiny_model, make_recipe()), ROWS, "completion", FLOAT32, attention)
    assert not verification.passed and verification.gradient_difference is not None
    assert verification.gradient_difference > 10 * verification.tolerance


def test_wrong_trees_fall_back_to_padded_rows(
    tiny_model: Path,
    make_recipe: MakeRecipe,
    tmp_path: Path,
    dropped_masks: None,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO", logger="toolkit")
    recipe = make_recipe(f"model.name={tiny_model}")
    run = RunFolder(tmp_path / "run")
    train_run(recipe, run, TrainingOptions())
    assert "WARNING     prefix trees failed the verification" in caplog.text
    batching = run.record["batching"]
    assert batching["name"] == "padded" and "failed the verification" in batching["reason"]
    assert run.record["group_by_premise"] is False
    assert batching["verification"]["gradient_difference"] > batching["verification"]["tolerance"]


def break_trees(monkeypatch: pytest.MonkeyPatch, damage: Callable[[Any], Any]) -> None:
    """Let `damage` change the model's output for trees, whose mask has four dimensions even if it is empty."""
    forward = LlamaModel.forward

    def damaged_forward(self: Any, *args: Any, attention_mask: Any = None, **kwargs: Any) -> Any:
        output = forward(self, *args, attention_mask=attention_mask, **kwargs)
        return damage(output) if attention_mask is not None and attention_mask.dim() == 4 else output

    monkeypatch.setattr(LlamaModel, "forward", damaged_forward)


def return_nan(output: Any) -> Any:
    output.last_hidden_state = output.last_hidden_state * float("nan")
    return output


def raise_error(output: Any) -> Any:
    raise RuntimeError("no mask of four dimensions here\nand more lines")


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (return_nan, "loss not finite, gradient not finite"),
        (raise_error, "cannot be computed: no mask of four dimensions here"),
    ],
)
def test_failing_trees_fall_back_to_padded_rows(
    tiny_model: Path,
    make_recipe: MakeRecipe,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    damage: Callable[[Any], Any],
    sentence: str,
) -> None:
    caplog.set_level("INFO", logger="toolkit")
    break_trees(monkeypatch, damage)
    run = RunFolder(tmp_path / "run")
    train_run(make_recipe(f"model.name={tiny_model}"), run, TrainingOptions())
    assert sentence in caplog.text
    assert run.record["status"] == "completed" and run.record["batching"]["name"] == "padded"


@pytest.mark.parametrize("batching", ["auto", "prefix_tree"])
def test_failed_split_falls_back_to_dense(
    tiny_model: Path,
    make_recipe: MakeRecipe,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    batching: str,
) -> None:
    """Training continues with trees, and run.json records their attention."""
    caplog.set_level("INFO", logger="toolkit")
    recipe = make_recipe(f"model.name={tiny_model}", f"training.batching={batching}")
    expected = RunFolder(tmp_path / "split")
    train_run(recipe, expected, TrainingOptions())
    assert expected.record["tree_attention"] == "split" and "rejected" not in caplog.text
    forward = LlamaModel.forward

    def without_layout(self: Any, *args: Any, tree_layout: Any = None, **kwargs: Any) -> Any:
        return forward(self, *args, **kwargs)

    monkeypatch.setattr(LlamaModel, "forward", without_layout)
    run = RunFolder(tmp_path / "dense")
    train_run(recipe, run, TrainingOptions())
    assert "rejected    split attention over prefix trees: a prefix tree cannot be computed" in caplog.text
    assert "WARNING" not in caplog.text and "verified    relative difference" in caplog.text
    record = run.record
    assert record["status"] == "completed" and record["tree_attention"] == "dense"
    assert record["batching"]["name"] == "prefix_tree" and record["batching"]["verification"]["error"] is None
    assert record["final_loss"] == pytest.approx(expected.record["final_loss"], rel=1e-4)


def test_backend_that_truncates_is_detected(
    tiny_model: Path, make_recipe: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Unsloth's fused forward truncates at max_seq_length unless its second flag is set."""
    model = model_with_adapter(tiny_model, make_recipe())
    decoder, forward = model.get_base_model().get_decoder(), LlamaModel.forward
    decoder.max_seq_length = 1_000

    def truncating_forward(self: Any, input_ids: Any, **kwargs: Any) -> Any:
        return forward(self, input_ids=input_ids[:, : self.max_seq_length], **kwargs)

    monkeypatch.setattr(LlamaModel, "forward", truncating_forward)
    assert not verify_tree(model, ROWS, "completion", FLOAT32).passed
    assert decoder.max_seq_length == 1_000


def test_required_trees_that_fail_are_refused(
    tiny_model: Path, make_recipe: MakeRecipe, tmp_path: Path, dropped_masks: None
) -> None:
    recipe = make_recipe(f"model.name={tiny_model}", "training.batching=prefix_tree")
    with pytest.raises(TrainingError, match="Prefix trees cannot be used"):
        train_run(recipe, RunFolder(tmp_path / "run"), TrainingOptions())
    assert not (tmp_path / "run").exists()


def test_unsloth_still_reads_our_flags() -> None:
    from importlib.util import find_spec

    spec = find_spec("unsloth")
    assert spec is not None and spec.origin is not None
    source = (Path(spec.origin).parent / "models" / "llama.py").read_text(encoding="utf-8")
    for flag in UNSLOTH_FLAGS:
        assert f'getattr(self, "{flag}", False)' in source
