"""The commands that reproduce a run and its evaluations, for its report."""

import shlex
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from toolkit.data.sources import EMBEDDED
from toolkit.errors import ModelError, RunError
from toolkit.evaluation.evaluation import Evaluation
from toolkit.inference.gguf_file import read_gguf_header
from toolkit.models.gguf_types import FILE_TYPES
from toolkit.recipe.loading import format_override
from toolkit.recipe.section import GgufType
from toolkit.runs.averaged import AveragedRun
from toolkit.runs.imported import ImportedAdapter
from toolkit.runs.model_ref import ModelRef
from toolkit.runs.run_folder import RunFolder, read_json_object


def reproduction_commands(
    run: RunFolder, record: Mapping[str, Any], evaluations: Sequence[Evaluation]
) -> Iterator[str]:
    """Yield the commands that reproduce a run and its evaluations.

    Args:
        run: The run folder.
        record: The content of run.json.
        evaluations: The evaluations of the run.
    """
    # In a folder of its own, so that reproducing a run cannot overwrite it.
    rerun = RunFolder(run.path.resolve().with_name(f"{run.path.resolve().name}-again"))
    recipe_file = run.recipe_file
    if commit := record.get("git_commit"):
        yield shlex.join(["git", "checkout", str(commit).removesuffix("-dirty")])
    is_from_python = "command" in record and record["command"] is None  # not started by a script
    if imported := ImportedAdapter.from_record(record):
        yield _import_command(run, rerun, imported.base, is_from_python=is_from_python)
    elif averaged := AveragedRun.from_record(record):
        yield from _averaging_commands(recipe_file, averaged, rerun)
    elif is_from_python:
        call = f"toolkit.train({str(recipe_file)!r}, output_dir={str(rerun.path)!r})"
        yield f"python -c {shlex.quote(f'import toolkit; {call}')}"
    else:
        yield f"python scripts/sft.py {shlex.join([str(recipe_file), '--output-dir', str(rerun.path)])}"
    models = list(dict.fromkeys(str(evaluation.metrics["model"]) for evaluation in evaluations))
    types = _gguf_types(run, models)
    if types or "merged" in models:
        quant_flags = ["--quant", *dict.fromkeys(types.values())] if types else []
        yield f"python scripts/export_gguf.py {shlex.join([str(rerun.path), *quant_flags, *_converter_flags(run)])}"
    for evaluation in evaluations:
        yield _evaluation_command(evaluation, rerun, types)


def _averaging_commands(recipe_file: Path, averaged: Sequence[AveragedRun], rerun: RunFolder) -> Iterator[str]:
    folders = [f"{rerun.path}-{number}" for number in range(1, len(averaged) + 1)]
    for run, folder in zip(averaged, folders, strict=True):
        # The recipe of the average has its seed and its rank.
        overrides = {"seed": run.seed, "lora.r": run.r, "lora.alpha": run.alpha}
        flags = [flag for key, value in overrides.items() for flag in ("--set", format_override(key, value))]
        yield f"python scripts/sft.py {shlex.join([str(recipe_file), *flags, '--output-dir', folder])}"
    yield f"python scripts/average_runs.py {shlex.join([*folders, '--output-dir', str(rerun.path)])}"


def _import_command(run: RunFolder, rerun: RunFolder, base: str | None, *, is_from_python: bool) -> str:
    # From the run's own copy of the adapter, because the original may be gone.
    adapter, recipe_file, output_dir = map(str, (run.adapter, run.recipe_file, rerun.path))
    if is_from_python:
        base_argument = f", base={base!r}" if base else ""
        call = f"toolkit.import_adapter({adapter!r}, {recipe_file!r}, {output_dir!r}{base_argument})"
        return f"python -c {shlex.quote(f'import toolkit; {call}')}"
    base_flag = ["--base", base] if base else []
    arguments = [adapter, recipe_file, "--output-dir", output_dir, *base_flag]
    return f"python scripts/import_adapter.py {shlex.join(arguments)}"


def _gguf_types(run: RunFolder, models: Sequence[str]) -> dict[str, GgufType]:
    """Return the file type of each evaluated GGUF file that this toolkit can write again, by the name of the model.

    The type is read from the file, because its name is that of the run at the time of the export.
    """
    names = {spec.number: file_type for file_type, spec in FILE_TYPES.items()}
    types: dict[str, GgufType] = {}
    for path in sorted((run.path / "gguf").glob("*.gguf")):
        with suppress(ModelError):  # the evaluation of a file that was damaged later still stands
            number = read_gguf_header(path).fields.get("general.file_type")
            if number in names:
                types[ModelRef("gguf", path).evaluation_name(run)] = names[number]
    for model in models:
        # A file that has been deleted: the toolkit ends its names with the type.
        if model.startswith("gguf-") and (ending := model.rpartition("-")[2]) in FILE_TYPES:
            types.setdefault(model, ending)
    return {model: file_type for model, file_type in types.items() if model in models}


def _converter_flags(run: RunFolder) -> list[str]:
    """Return the flag for llama.cpp's converter if it wrote a file of the run. Only its file name is recorded."""
    entries: list[dict[str, Any]] = []
    with suppress(RunError, KeyError):  # without an intact parity.json, nothing is known of a converter
        entries = read_json_object(run.parity)["models"]
    names = [entry["converter"]["file"] for entry in entries if entry.get("converter")]
    return ["--converter", names[0]] if names else []


def _evaluation_command(evaluation: Evaluation, run: RunFolder, gguf_types: Mapping[str, GgufType]) -> str:
    model, overrides, flags = evaluation.metrics["model"], evaluation.overrides, [str(run.path)]
    if model in gguf_types:
        model = str(run.gguf(gguf_types[model]))
    elif model.startswith("gguf-"):  # a file of another origin, whose folder is not recorded
        model = f"{model.removeprefix('gguf-')}.gguf"
    if model != "adapter":
        flags += ["--model", model]
    needs_data_flag = "data.eval.path" in overrides or (
        evaluation.source.startswith(f"{EMBEDDED}:") and "data.eval.split" in overrides
    )
    # Without a data flag, the rows are those of the recipe; overrides of the hub dataset become --set below.
    if needs_data_flag:
        flags += ["--data", evaluation.source]
    if evaluation.mode != "constrained":
        flags += ["--mode", evaluation.mode]
    if evaluation.shots:
        flags += ["--shots", str(evaluation.shots)]
    if evaluation.limit:
        flags += ["--limit", str(evaluation.limit)]
    data_keys = ("data.eval.path", "data.eval.name", "data.eval.split") if needs_data_flag else ()
    other_overrides = {key: value for key, value in overrides.items() if key not in (*data_keys, "data.eval.limit")}
    for key, value in other_overrides.items():
        flags += ["--set", format_override(key, value)]
    return f"python scripts/eval_generate.py {shlex.join(flags)}"
