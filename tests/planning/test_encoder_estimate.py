"""The resource estimate of an encoder: largest micro-batch, record of a run, and models that cannot be traced."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import toolkit
from toolkit.errors import ModelError
from toolkit.models.backend import DataCollatorWithPadding
from toolkit.planning.device import T4, Device
from toolkit.planning.plan import plan_job
from toolkit.planning.preflight import run_preflight
from toolkit.planning.resource_estimate import estimate_resources, largest_encoder_batch
from toolkit.planning.suggestions import suggest_changes
from toolkit.planning.traced_memory import TracedModel
from toolkit.recipe.schema import Recipe
from toolkit.runs.run_folder import RunFolder
from toolkit.training.encoder_trainer import PairCollator

MakeRecipe = Callable[..., Recipe]


def test_largest_micro_batch_is_that_of_the_collator(make_encoder_recipe: MakeRecipe) -> None:
    recipe = make_encoder_recipe("training.micro_batch_size=4", "training.max_steps=1000")
    job = plan_job(run_preflight(recipe))
    order, rows = list(job.row_order()), job.preflight.train_rows
    collate = PairCollator(DataCollatorWithPadding(job.preflight.row_tokenizer.tokenizer), 4)
    steps = [[rows[i].inputs() for i in order[start : start + 8]] for start in range(0, len(order), 8)]
    sizes = [batch["input_ids"].shape for step in steps for batch in collate(step)["micro_batches"]]
    tokens, length = max((count * length, length) for count, length in sizes)
    assert max(count for count, _ in sizes) == 4
    largest = largest_encoder_batch(job)
    assert (largest.tokens, largest.length) == (tokens, length) and not largest.is_tree


def test_run_of_an_encoder_records_the_estimate(trained_encoder: RunFolder) -> None:
    recorded = json.loads(trained_encoder.run_json.read_text(encoding="utf-8"))["outlook"]
    assert recorded["fits"] is True and recorded["export_bytes"] == 0 and recorded["checkpoint_bytes"] > 0
    for peak in ("training", "scoring"):
        assert recorded[peak]["logits"] == 0 and recorded[peak]["working"] > 0
    assert recorded["training"]["activations"] > 0 == recorded["scoring"]["activations"]


def test_suggestions_for_encoders_are_valid(make_encoder_recipe: MakeRecipe) -> None:
    preflight = run_preflight(make_encoder_recipe("training.micro_batch_size=8"))
    memory = estimate_resources(plan_job(preflight, T4)).training
    device = Device("a GPU", "cuda", memory.total - memory.activations // 4)
    estimate = estimate_resources(plan_job(preflight, device))
    assert not estimate.fits
    suggestion = suggest_changes(preflight, estimate)
    assert suggestion is not None and "load_in_4bit" not in suggestion
    changes = suggestion.removeprefix("set ").split(", ")
    changed = run_preflight(make_encoder_recipe(*changes))
    assert estimate_resources(plan_job(changed, device)).fits


def test_untraceable_model_can_still_be_trained(
    make_encoder_recipe: MakeRecipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise ModelError("The memory of x cannot be predicted: no list of layers.")

    monkeypatch.setattr(TracedModel, "trace", fail)
    report = toolkit.preflight(make_encoder_recipe())
    assert report.fits is None and report.verdict is None
    assert "memory      The memory of x cannot be predicted" in report.report()
    report.check_fits()
    assert report.job.plan.micro_batch_size == 1, "auto is the smallest size"
    run = toolkit.train(make_encoder_recipe("training.max_steps=1"), output_dir=tmp_path / "run")
    assert json.loads((run.path / "run.json").read_text(encoding="utf-8"))["outlook"] is None
