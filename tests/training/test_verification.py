"""A tree is verified before the first step: a backend that drops its mask is found out, and never trained on."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers.models.llama.modeling_llama import LlamaModel

from tests.training.test_objective import FULL, ROWS, adapted
from toolkit.errors import TrainingError
from toolkit.models.attention import UNSLOTH_FLAGS
from toolkit.recipe.schema import Recipe
from toolkit.runs.run_folder import RunFolder
from toolkit.training.training_run import TrainingOptions, train_run
from toolkit.training.verification import verify_tree

MakeRecipe = Callable[..., Recipe]


@pytest.fixture
def dropped_masks(monkeypatch: pytest.MonkeyPatch) -> None:
    """What Unsloth's fused forward does in training, unless it is told otherwise."""
    forward = LlamaModel.forward

    def without_mask(self: Any, *args: Any, attention_mask: Any = None, **kwargs: Any) -> Any:
        return forward(self, *args, attention_mask=None, **kwargs)

    monkeypatch.setattr(LlamaModel, "forward", without_mask)


@pytest.mark.parametrize("loss_on", ["completion", "full_text"])
def test_a_right_tree_passes_and_leaves_everything_as_it_was(tiny_model: Path, make_recipe: Any, loss_on: Any) -> None:
    model = adapted(tiny_model, make_recipe()).eval()
    state = torch.random.get_rng_state()
    found = verify_tree(model, ROWS, loss_on, FULL)
    assert found.passed and found.gradient_difference is not None and 0 <= found.gradient_difference < 1e-5
    assert torch.equal(state, torch.random.get_rng_state()) and not model.training
    assert all(parameter.grad is None for parameter in model.parameters())


def test_dropout_is_off_while_a_tree_is_verified_and_on_again_afterwards(tiny_model: Path, make_recipe: Any) -> None:
    from toolkit.models.loading import attach_lora, load_base
    from toolkit.recipe.schema import Lora

    model = attach_lora(
        load_base(tiny_model, make_recipe(), FULL), Lora(dropout=0.5), seed=1, gradient_checkpointing=False
    )
    assert verify_tree(model, ROWS, "completion", FULL).passed
    assert {module.p for module in model.modules() if isinstance(module, torch.nn.Dropout)} == {0.5}


def test_a_tree_without_its_mask_does_not_pass(tiny_model: Path, make_recipe: Any, dropped_masks: None) -> None:
    found = verify_tree(adapted(tiny_model, make_recipe()), ROWS, "completion", FULL)
    assert not found.passed and found.gradient_difference is not None
    assert found.gradient_difference > 10 * found.tolerance


def test_training_goes_on_padded_and_says_so_where_trees_are_wrong(
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
    assert "WARNING     loss and gradient of a tree differ" in caplog.text
    batching = run.record["batching"]
    assert batching["name"] == "padded" and "refused" in batching["reason"]
    assert run.record["group_by_premise"] is False
    assert batching["verification"]["gradient_difference"] > batching["verification"]["tolerance"]


def break_trees(monkeypatch: pytest.MonkeyPatch, with_what: Callable[[Any], Any]) -> None:
    forward = LlamaModel.forward

    def broken(self: Any, *args: Any, attention_mask: Any = None, **kwargs: Any) -> Any:
        output = forward(self, *args, attention_mask=attention_mask, **kwargs)
        return with_what(output) if attention_mask is not None and attention_mask.dim() == 4 else output

    monkeypatch.setattr(LlamaModel, "forward", broken)


def no_numbers(output: Any) -> Any:
    output.last_hidden_state = output.last_hidden_state * float("nan")
    return output


def no_such_mask(output: Any) -> Any:
    raise RuntimeError("no mask of four dimensions here\nand more lines")


@pytest.mark.parametrize(
    ("with_what", "sentence"),
    [(no_numbers, "by no number and no number"), (no_such_mask, "cannot be computed: no mask of four dimensions here")],
)
def test_trees_of_no_numbers_and_trees_that_raise_fall_back_too(
    tiny_model: Path,
    make_recipe: MakeRecipe,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    with_what: Callable[[Any], Any],
    sentence: str,
) -> None:
    caplog.set_level("INFO", logger="toolkit")
    break_trees(monkeypatch, with_what)
    run = RunFolder(tmp_path / "run")
    train_run(make_recipe(f"model.name={tiny_model}"), run, TrainingOptions())
    assert sentence in caplog.text
    assert run.record["status"] == "completed" and run.record["batching"]["name"] == "padded"


def test_a_backend_that_cuts_long_rows_is_found_out_by_a_small_tree(
    tiny_model: Path, make_recipe: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As Unsloth's fused forward cuts at max_seq_length, unless its second flag is set."""
    model = adapted(tiny_model, make_recipe())
    decoder, forward = model.get_base_model().get_decoder(), LlamaModel.forward
    decoder.max_seq_length = 1_000

    def cutting(self: Any, input_ids: Any, **kwargs: Any) -> Any:
        return forward(self, input_ids=input_ids[:, : self.max_seq_length], **kwargs)

    monkeypatch.setattr(LlamaModel, "forward", cutting)
    assert not verify_tree(model, ROWS, "completion", FULL).passed
    assert decoder.max_seq_length == 1_000


def test_a_recipe_that_wants_trees_alone_is_refused_where_they_are_wrong(
    tiny_model: Path, make_recipe: MakeRecipe, tmp_path: Path, dropped_masks: None
) -> None:
    recipe = make_recipe(f"model.name={tiny_model}", "training.batching=prefix_tree")
    with pytest.raises(TrainingError, match="tree batches cannot be trained on"):
        train_run(recipe, RunFolder(tmp_path / "run"), TrainingOptions())
    assert not (tmp_path / "run").exists()


def test_unsloth_still_looks_for_the_flags_that_keep_a_trees_mask() -> None:
    from importlib.util import find_spec

    spec = find_spec("unsloth")
    assert spec is not None and spec.origin is not None
    source = (Path(spec.origin).parent / "models" / "llama.py").read_text(encoding="utf-8")
    for flag in UNSLOTH_FLAGS:
        assert f'getattr(self, "{flag}", False)' in source
