"""Resource estimates before a run: sizes of real models, verdicts and suggestions that hold."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest

from toolkit.cli.command_line import byte_size
from toolkit.export.gguf_writer import gguf_bytes
from toolkit.models import loading
from toolkit.models.gguf_types import HEADER_BYTES
from toolkit.models.merging import merged_type
from toolkit.models.parameters import ParameterCount, model_config
from toolkit.planning.device import T4, Device, this_device
from toolkit.planning.plan import plan_job
from toolkit.planning.preflight import run_preflight
from toolkit.planning.resource_estimate import _file_bytes, estimate_resources
from toolkit.planning.shapes import ModelShape
from toolkit.planning.suggestions import suggest_changes, verdict
from toolkit.recipe.loading import load_recipe
from toolkit.recipe.schema import Recipe

MakeRecipe = Callable[..., Recipe]
Call = Callable[..., tuple[int, str, str]]
# Total and quantizable parameters of Llama 3.2, from the configurations that Meta published.
SIZES = {"1b": (1_235_814_400, 973_078_528), "3b": (3_212_749_824, 2_818_572_288)}


@pytest.mark.parametrize(("size", "plain", "packed"), [("1b", 2.5, 1.03), ("3b", 6.5, 2.24)])
def test_weight_sizes_of_real_models(size: str, plain: float, packed: float) -> None:
    total, quantizable = SIZES[size]
    count = ParameterCount(trainable=0, total=total, quantizable=quantizable)
    assert count.base_bytes(2, load_in_4bit=False) / 1e9 == pytest.approx(plain, rel=0.02)
    assert count.base_bytes(2, load_in_4bit=True) / 1e9 == pytest.approx(packed, rel=0.02)


@pytest.mark.parametrize("has_bfloat16_units", [False, True])
def test_verdict_depends_on_the_device(
    make_recipe: MakeRecipe, tiny_model: Path, monkeypatch: pytest.MonkeyPatch, has_bfloat16_units: bool
) -> None:
    monkeypatch.setattr(loading, "is_bfloat16_supported", lambda: has_bfloat16_units)
    monkeypatch.setattr(loading, "cpu_has_bfloat16_units", lambda: has_bfloat16_units)
    preflight = run_preflight(make_recipe(f"model.name={tiny_model}", "model.dtype=auto"))
    assert preflight.precision.name == ("bfloat16" if has_bfloat16_units else "float32")
    here = estimate_resources(plan_job(preflight))
    assert here.fits and verdict(preflight, here).startswith(f"fits on {this_device().name}: training ")
    assert here.record()["training"]["total"] == here.training.total
    on_t4 = estimate_resources(plan_job(preflight, T4))
    assert on_t4.dtype_bytes == 2 and on_t4.training.holes == 0
    assert (
        on_t4.training.weights < here.training.weights
    ) is not has_bfloat16_units  # a T4's float16 is as wide as bfloat16
    tiny = Device("a tiny GPU", "cuda", 400_000_000)
    on_tiny = estimate_resources(plan_job(preflight, tiny))
    assert not on_tiny.fits and "no recipe setting helps" in verdict(preflight, on_tiny)


@pytest.mark.parametrize("batching", [
    ["training.batching=padded", "training.micro_batch_size=48"], ["training.batching=prefix_tree"],
])  # fmt: skip
def test_suggested_changes_are_valid_overrides(make_recipe: MakeRecipe, tiny_model: Path, batching: list[str]) -> None:
    kept = [f"model.name={tiny_model}", "training.batch_size=48", "training.loss_on=full_text", batching[0]]
    preflight = run_preflight(make_recipe(*kept, *batching[1:], "training.gradient_checkpointing=false"))
    estimate = estimate_resources(plan_job(preflight, T4))
    device = replace(T4, memory=estimate.training.total - 1_000_000)
    suggestion = suggest_changes(preflight, replace(estimate, device=device))
    assert suggestion is not None and suggestion.startswith("set training.")
    changes = [change.strip() for change in suggestion.removeprefix("set ").split(",")]
    changed = run_preflight(make_recipe(*kept, *changes))
    assert estimate_resources(plan_job(changed, device)).fits


def test_suggestion_for_scoring_names_only_its_key(make_recipe: MakeRecipe, tiny_model: Path) -> None:
    small = ["training.batching=padded", "training.micro_batch_size=1", "training.gradient_checkpointing=true"]
    preflight = run_preflight(make_recipe(f"model.name={tiny_model}", *small))
    estimate = estimate_resources(plan_job(preflight, T4))
    device = replace(T4, memory=estimate.scoring.total - 1_000_000)
    suggestion = suggest_changes(preflight, replace(estimate, device=device))
    assert suggestion == f"set evaluation.batch_tokens={preflight.longest_row}", "and no key of training"


def test_preflight_exits_with_3_if_nothing_fits(call: Call, recipe_file: Path) -> None:
    code, out, err = call("preflight", recipe_file)
    assert code == 0, err
    for words in ("memory      training ", "verdict     ", "fits on T4: training ", "duplicates  0 training rows"):
        assert words in out
    assert out.count("<|begin_of_text|>") == 2, "two examples"
    code, out, err = call("preflight", recipe_file, "--memory", "300MB")
    assert (
        code == 3
        and "The recipe does not fit on a GPU with 300 MB: training 5" in err
        and ", scoring 5" in err
        and "Traceback" not in err
    )
    code, _, err = call("preflight", recipe_file, "--memory", "viel")
    assert code == 2 and "'viel' is not a memory size; write it like 16GB" in err


def test_probe_leaves_no_files(call: Call, recipe_file: Path, tmp_path: Path) -> None:
    code, out, err = call("preflight", recipe_file, "--probe")
    assert code == 0 and "s per step, 0.0 minutes for all steps; peak memory " in out, err
    assert [path.name for path in tmp_path.iterdir()] == ["recipe.yaml"]


def test_run_records_the_estimate(trained: Any) -> None:
    record = json.loads(trained.run_json.read_text(encoding="utf-8"))
    preflight = run_preflight(load_recipe(trained.recipe_file))
    recorded, expected = record["outlook"], estimate_resources(plan_job(preflight)).record()
    # A peak in wrong units or of another process would be outside these bounds.
    lower_bound = recorded["training"]["runtime"] if this_device().kind == "cpu" else 0
    assert lower_bound <= record["peak_memory_bytes"] < psutil.virtual_memory().total
    for peak in ("training", "scoring"):
        terms = {name: size for name, size in recorded[peak].items() if name not in ("total", "peak", "loading")}
        assert recorded[peak]["total"] == sum(terms.values()) and recorded[peak]["peak"] >= recorded[peak]["total"]
        for estimate in (recorded, expected):  # this process has grown since the run was recorded
            del estimate[peak]["runtime"], estimate[peak]["total"], estimate[peak]["peak"]
    assert recorded == expected and recorded["fits"] is True
    assert record["near_duplicates"] == {"repeats": 0, "conflicts": 0, "leaked": 0}


@pytest.mark.parametrize("types", ["[q8_0]", "[f16, q4_k_m]"])
@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_export_estimate_matches_the_exporter(
    make_recipe: MakeRecipe, tiny_model: Path, tmp_path: Path, dtype: str, types: str
) -> None:
    base = tmp_path / "base"
    shutil.copytree(tiny_model, base)
    config = json.loads((base / "config.json").read_text(encoding="utf-8"))
    (base / "config.json").write_text(json.dumps({**config, "dtype": dtype}), encoding="utf-8")
    preflight = run_preflight(make_recipe(f"model.name={base}", f"export.gguf={types}"))
    source = merged_type(preflight.config)
    kept = [source, *preflight.recipe.export.gguf, *([source] if "q4_k_m" in types else [])]
    demanded = sum(gguf_bytes(base, gguf_type) for gguf_type in kept)
    headers = len(kept) * HEADER_BYTES  # far larger than the weights of the tiny model
    # Rows of the tiny model are shorter than the blocks of q4_k_m, so they are stored in a larger type.
    tolerance = 0.15 if "q4_k_m" in types else 0.02
    assert estimate_resources(plan_job(preflight)).export - headers == pytest.approx(demanded - headers, rel=tolerance)


@pytest.mark.parametrize(("steps", "checkpoints"), [(10, 3), (2, 2)])
def test_checkpoint_estimate_includes_one_extra(
    make_recipe: MakeRecipe, tiny_model: Path, steps: int, checkpoints: int
) -> None:
    overrides = ["training.save_steps=1", "training.save_total_limit=2", f"training.max_steps={steps}"]
    preflight = run_preflight(make_recipe(f"model.name={tiny_model}", "training.optimizer=adamw_torch", *overrides))
    assert estimate_resources(plan_job(preflight)).checkpoints == checkpoints * 12 * preflight.parameters.trainable


def test_too_small_disk_is_reported_before_training(
    call: Call, recipe_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = ["sft", recipe_file, "--output-dir", tmp_path / "not" / "there", "--dry-run"]
    code, out, err = call(*run)
    assert code == 0 and "WARNING" not in out, err
    monkeypatch.setattr("shutil.disk_usage", lambda _: shutil._ntuple_diskusage(10, 9, 1))  # type: ignore[attr-defined]
    code, out, err = call(*run)
    assert code == 0 and "WARNING     adapter and checkpoints will take" in out and "save_total_limit" in out, err


@pytest.mark.parametrize(
    ("content", "is_limited"), [("300000000\n", True), ("max\n", False), ("9223372036854771712", False)]
)
def test_container_limit_is_the_device_memory(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, content: str, is_limited: bool
) -> None:
    monkeypatch.setattr("toolkit.planning.device.DEVICE", "cpu")
    limit = tmp_path / "memory.max"
    limit.write_text(content, encoding="utf-8")
    monkeypatch.setattr("toolkit.planning.device.CONTAINER_LIMITS", (tmp_path / "none", limit))
    assert this_device().memory == (300_000_000 if is_limited else psutil.virtual_memory().total)


@pytest.mark.parametrize(("text", "size"), [("16GB", 16e9), ("15.8 gb", 15.8e9), ("24GiB", 24 * 2**30), ("8", 8e9)])
def test_memory_sizes_are_parsed(text: str, size: float) -> None:
    assert byte_size(text) == size


def test_missing_head_size_is_derived() -> None:
    class Config:
        num_hidden_layers, hidden_size, num_attention_heads, intermediate_size, vocab_size = 2, 64, 4, 128, 99

    shape = ModelShape.from_config(Config)
    assert shape.attention == 64 and shape.input_size("down_proj") == 128 and shape.input_size("q_proj") == 64


def test_file_pages_count_if_weights_are_converted(tiny_model: Path, tmp_path: Path) -> None:
    counts = ParameterCount(trainable=10, total=1010, quantizable=0)
    local: Any = SimpleNamespace(folder=tiny_model, config=model_config(tiny_model), parameters=counts)
    size = (tiny_model / "model.safetensors").stat().st_size
    assert (_file_bytes(local, 2), _file_bytes(local, 4)) == (0, size), "the files are in bfloat16"
    shutil.copy(tiny_model / "config.json", tmp_path)
    not_downloaded: Any = SimpleNamespace(folder=tmp_path, config=model_config(tmp_path), parameters=counts)
    assert (_file_bytes(not_downloaded, 2), _file_bytes(not_downloaded, 4)) == (0, 2 * 1000)


def test_gemma_takes_four_bytes_on_a_t4() -> None:
    """A T4 has no bfloat16, and Gemma 3 overflows float16."""
    recipe, sizes = SimpleNamespace(model=SimpleNamespace(dtype="auto")), []
    for architecture in ("Gemma3ForCausalLM", "LlamaForCausalLM"):
        config = SimpleNamespace(architectures=[architecture])
        preflight: Any = SimpleNamespace(recipe=recipe, config=config)
        sizes.append(T4.dtype_bytes(preflight))
    assert sizes == [4, 2]
