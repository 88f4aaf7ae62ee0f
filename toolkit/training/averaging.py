"""The average of trained runs: a run folder whose adapter changes the weights by the mean of what theirs do."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file

from toolkit.errors import RunError
from toolkit.models.adapter_average import LoraWeights, average_adapters
from toolkit.models.adapter_checks import check_adapter
from toolkit.models.foreign_adapter import CONFIG, WEIGHTS
from toolkit.recipe.loading import diff_recipes, dump_recipe
from toolkit.runs.averaged import AveragedRun
from toolkit.runs.digests import digest_files
from toolkit.runs.run_folder import RunFolder, utc_now
from toolkit.runs.seal import content_digest, model_files, sealed_sections
from toolkit.runs.trained_run import TrainedRun
from toolkit.runs.versions import git_commit, package_versions
from toolkit.utils.atomic_io import atomic_path
from toolkit.utils.formatting import join_names
from toolkit.utils.storage import flush_to_disk, folder_lock

_KEPT_FIELDS = (
    "device", "model", "precision", "data", "near_duplicates", "tokens", "tokens_sha256", "scored_tokens",
    "total_parameters", "weight_bytes", "target_modules", "steps", "batch_size",
)  # fmt: skip
"""Fields of run.json that are the same for all runs, so that those of the first one hold for their average."""
_SAME_RECIPE = "Train all of them with the same recipe, and change only the seed."
_HINTS = {
    "training rows": "The seed draws these rows. Set data.split_seed for data.eval_share and data.dev_share, and "
    "remove data.calibration_share and data.train_rows.",
    "data types": "Set model.dtype in the recipe, and train all of them with it.",
}
"""What to do about differences that are not in files."""


def check_average(runs: Sequence[TrainedRun]) -> None:
    """Check that the adapters of runs can be averaged.

    Raises:
        RunError: If there are fewer than two runs, one of them occurs twice, or they differ in more than their seeds.
    """
    if len(runs) < 2:
        raise RunError(f"An average needs at least two runs, but got {len(runs)}.", hint=_SAME_RECIPE)
    for run in runs:
        _check_kind(run)
    first, by_adapter = runs[0], dict[str, TrainedRun]()
    for run in runs:
        if (other := by_adapter.setdefault(run.adapter_sha256, run)) is not run:
            raise RunError(
                f"{other.path} and {run.path} have the same adapter, so their average is that adapter.",
                hint="Train one of them with another seed.",
            )
    for run in runs[1:]:
        if changed := [key for key in diff_recipes(first.saved_recipe, run.saved_recipe) if key != "seed"]:
            raise RunError(
                f"The recipes of {first.path} and {run.path} differ in {join_names(changed, 'and')}.", hint=_SAME_RECIPE
            )
        _check_same_files(first, run)


def _check_kind(run: TrainedRun) -> None:
    lora = run.saved_recipe.lora
    if run.saved_recipe.model.kind == "encoder" or lora is None:
        raise RunError(
            f"{run.path} is an encoder, whose head starts from random weights: the heads of two runs have nothing in "
            "common that could be averaged.",
            hint="Average the adapters of decoders.",
        )
    if lora.use_dora:
        raise RunError(
            f"The adapter of {run.path} uses DoRA, whose change of the weights is not a product of two matrices, so "
            "the average is not an adapter.",
            hint="Set lora.use_dora: false and train again.",
        )
    if run.seal is None:
        raise RunError(
            f"{run.path} has no seal, so its base model cannot be compared with that of the other runs.",
            hint="Train it again with this version.",
        )
    if AveragedRun.from_record(run.record) or run.record.get("imported"):
        raise RunError(
            f"{run.path} was not trained by the toolkit itself: its adapter is an average or was imported.",
            hint="Average runs that `sft.py` has trained.",
        )


def _check_same_files(first: TrainedRun, run: TrainedRun) -> None:
    """Check what a recipe does not show: files, the rows that seeds draw, and the data type that `auto` chose."""
    ours, theirs = _identity(first), _identity(run)
    for name, value in ours.items():
        if theirs[name] != value:
            hint = _HINTS.get(name, "Train all of them on the same files.")
            raise RunError(f"The {name} of {first.path} and {run.path} differ.", hint=hint)


def _identity(run: TrainedRun) -> dict[str, Any]:
    seal, data = run.seal, run.record.get("data", {})
    if seal is None:  # refused by `_check_kind`
        return {}
    fingerprints = {name: (data.get(name) or {}).get("fingerprint") for name in ("train", "dev", "calibration")}
    tokenizer = {name: digest for name, digest in seal.adapter.items() if name not in (CONFIG, WEIGHTS)}
    data_type = (run.record.get("precision") or {}).get("name")
    return {"base models": seal.base, "tokenizers": tokenizer, "training rows": fingerprints, "data types": data_type}


def average_into(
    runs: Sequence[TrainedRun], run: RunFolder, *, overwrite: bool = False, command: Sequence[str] | None = None
) -> None:
    """Write the average of runs, which `check_average` has accepted, into a run folder.

    Args:
        runs: The runs.
        run: The folder to write.
        overwrite: Replace an older run.
        command: The command line, for run.json; None if Python code started it.

    Raises:
        RunError: If the folder is taken.
        ModelError: If the file of an adapter is damaged.
    """
    for member in runs:
        check_adapter(member.folder.adapter)
    average = average_adapters(
        [LoraWeights(_lora(member), load_file(member.folder.adapter / WEIGHTS)) for member in runs]
    )
    first = runs[0]
    recipe = first.saved_recipe.model_copy(update={"lora": average.lora})
    record = {name: first.record[name] for name in _KEPT_FIELDS if name in first.record}
    record |= {
        "versions": package_versions(),
        "git_commit": git_commit(),
        "command": None if command is None else list(command),
        "seed": recipe.seed,
        "trainable_parameters": sum(tensor.numel() for tensor in average.tensors.values()),
        "averaged": [_describe(member).record() for member in runs],
        **_costs(runs),
    }
    if changes := [f"{member.path.resolve().name}: {change}" for member in runs for change in member.accepted]:
        record["accepted_changes"] = changes
    with folder_lock(run.path, create=True):
        run.check_not_taken(overwrite=overwrite)
        run.create(record, dump_recipe(recipe), replace=overwrite)
        with atomic_path(run.adapter) as partial:
            _write_adapter(average, first.folder.adapter, partial)
        fields = {"ended": utc_now(), "status": "completed"}
        seal = {
            "base": dict(first.seal.base) if first.seal else {},
            "adapter": digest_files(run.adapter, model_files(run.adapter), run.path),
            "train_log": None,
            "recipe": sealed_sections(recipe),
            "record": content_digest(run.record | fields),
        }
        run.update(**fields, seal=seal)


def _lora(run: TrainedRun) -> Any:
    return run.saved_recipe.lora


def _describe(run: TrainedRun) -> AveragedRun:
    lora, seconds = _lora(run), run.record.get("timings", {}).get("train_seconds")
    return AveragedRun(run.path.resolve().name, run.saved_recipe.seed, lora.r, lora.alpha, run.adapter_sha256, seconds)


def _costs(runs: Sequence[TrainedRun]) -> dict[str, Any]:
    """Return the training time of all runs together, and the highest peak memory, if all of them recorded it."""
    seconds = [run.record.get("timings", {}).get("train_seconds") for run in runs]
    peaks: list[Any] = [run.record.get("peak_memory_bytes") for run in runs]
    costs: dict[str, Any] = {} if None in seconds else {"timings": {"train_seconds": round(sum(seconds), 2)}}
    return costs if None in peaks else {**costs, "peak_memory_bytes": max(peaks)}


def _write_adapter(average: LoraWeights, source: Path, destination: Path) -> None:
    """Write an adapter with the tokenizer and the configuration of another one, except for its rank and alpha."""
    destination.mkdir()
    for name in model_files(source):
        if name not in (CONFIG, WEIGHTS):
            (destination / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source / name, destination / name)
    config = json.loads((source / CONFIG).read_text(encoding="utf-8"))
    config |= {"r": average.lora.r, "lora_alpha": average.lora.alpha}
    (destination / CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    save_file(dict(average.tensors), destination / WEIGHTS, metadata={"format": "pt"})
    flush_to_disk(destination)
