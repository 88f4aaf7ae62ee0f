"""A trained run becomes files that llama.cpp runs: merge, convert, quantise, and prove that they answer alike."""

import hashlib
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from toolkit.data.checks import load_examples
from toolkit.data.sources import describe
from toolkit.errors import GateError, StorageError
from toolkit.evaluation.report import write_report
from toolkit.evaluation.run_results import load_parity
from toolkit.export.gguf import gguf_bytes, write_gguf
from toolkit.export.gguf_header import Origin
from toolkit.export.gguf_tokenizer import read_tokenizer
from toolkit.export.llama_config import read_config
from toolkit.export.modelfile import modelfile, usage
from toolkit.export.parity import ParityGate, Verify, choose_rows
from toolkit.export.quantise import find_quantiser, quantise
from toolkit.file_types import FILE_TYPES
from toolkit.files import remove_leftovers, scratch_path, write_json, write_text
from toolkit.model.files import card_licence, find_base
from toolkit.model.merging import merge_adapter, merged_type
from toolkit.prompts import PromptEncoder, load_tokenizer
from toolkit.recipe import GgufType, Recipe
from toolkit.run_folder import RunFolder


def export_run(
    run: RunFolder,
    recipe: Recipe,
    file_types: Sequence[GgufType],
    *,
    verify: Verify,
    min_agreement: float | None,
    remove_merged: bool,
) -> list[Path]:
    """Merge the adapter, write one GGUF per file type, and compare each with the adapter on evaluation rows.

    Args:
        run: a finished run.
        recipe: its recipe.
        file_types: which GGUFs to write.
        verify: how many evaluation rows to compare on.
        min_agreement: the least share of equal predictions; None: see `ParityGate`.
        remove_merged: delete the merged weights at the end.

    Returns:
        The files.

    Raises:
        ModelError: the adapter does not fit the base, or llama.cpp cannot load a file.
        ExportError: the model is none that can be converted, or there is no quantiser.
        StorageError: the disk is too small.
        GateError: a file does not answer as the adapter; all files are written, and parity.json says why.
    """
    base = find_base(run, recipe)
    files = {file_type: run.gguf(file_type) for file_type in file_types}
    for path in (run.merged, run.gguf("quantising"), *files.values()):
        remove_leftovers(path)  # it would count as disk that is not free
    _refuse_before_work(base, run, file_types)
    encoder = PromptEncoder(load_tokenizer(run.adapter), recipe.task, recipe.model.max_seq_length)
    modelfile(encoder, next(iter(files.values())), recipe.model.max_seq_length)
    examples = choose_rows(load_examples(recipe, recipe.data.eval), verify, recipe.seed)
    gate = ParityGate(run, recipe, encoder, examples, min_agreement)
    print(f"merging     {recipe.model.name} + adapter into {run.merged}")
    merge_adapter(base, run.adapter, run.merged)
    gate.check_merged()
    earlier = _earlier_parity(run, list(files.values()))
    _write_files(files, run, recipe, _origin(base, run, recipe))
    for file_type, file in files.items():
        print(f"{file_type:<11} {file}, {file.stat().st_size / 1e6:,.1f} MB")
        gate.check_gguf(file_type, file)
    _write_companions(list(files.values()), run, recipe, encoder, gate, earlier)
    if remove_merged:
        shutil.rmtree(run.merged)
    print(f"\n{gate.table()}")
    print(f"\nreport      {write_report(run)}")
    if gate.refused:
        raise GateError(
            f"{', '.join(one.model for one in gate.refused)} of {run.path} does not answer as the adapter did.",
            hint=f"The reasons stand above and in {run.parity}; the files are there to look into, not to ship.",
        )
    return list(files.values())


def _refuse_before_work(base: Path, run: RunFolder, file_types: Sequence[GgufType]) -> None:
    """What cannot be converted, quantised or held by the disk is refused before gigabytes are merged."""
    config = read_config(base)
    read_tokenizer(run.adapter, config.vocab_size)
    if mixtures := [one for one in file_types if FILE_TYPES[one].needs_quantiser]:
        find_quantiser()
    source = merged_type(base)
    kept = [source, *file_types]  # the merged weights are as large as a GGUF of their type
    needed = sum(gguf_bytes(base, one) for one in [*kept, *([source] if mixtures else [])])
    free = shutil.disk_usage(run.path).free
    if needed > free:
        raise StorageError(
            f"The export needs {needed / 1e9:.1f} GB of disk, and {run.path} has {free / 1e9:.1f} GB free.",
            hint="Free some, write fewer file types, or move the run folder to a larger disk.",
        )


def _write_files(files: dict[GgufType, Path], run: RunFolder, recipe: Recipe, origin: Origin) -> None:
    def write(file_type: GgufType, destination: Path, name: str) -> None:
        write_gguf(run.merged, destination, file_type, date_string=recipe.task.date_string, name=name, origin=origin)

    for file_type, file in files.items():
        if not FILE_TYPES[file_type].needs_quantiser:
            write(file_type, file, file.stem)
    mixtures = [one for one in files if FILE_TYPES[one].needs_quantiser]
    if not mixtures:
        return
    with scratch_path(run.gguf("quantising")) as source:
        # In the merged weights' own type: what is quantised is what was merged.
        write(merged_type(run.merged), source, run.path.resolve().name)
        for file_type in mixtures:
            quantise(source, files[file_type], file_type)


def _earlier_parity(run: RunFolder, files: list[Path]) -> list[dict[str, Any]]:
    """Entries of an earlier export's files that are still there; of files that are written anew they are forgotten."""
    if (record := load_parity(run)) is None:
        return []
    there = [one for one in record["models"] if one.get("file") and (run.path / one["file"]).is_file()]
    kept = [one for one in there if run.path / one["file"] not in files]
    write_json(run.parity, {**record, "models": kept})
    return kept


def _origin(base: Path, run: RunFolder, recipe: Recipe) -> Origin:
    name = recipe.model.name
    is_local = Path(name).is_dir()  # a folder of this machine is nobody else's business
    return Origin(
        recipe=hashlib.sha256(run.recipe.read_bytes()).hexdigest(),
        base_model=Path(name).name if is_local else name,
        base_revision=None if is_local else run.record.get("model", {}).get("commit"),
        licence=card_licence(base).get("license"),
    )


def _write_companions(
    files: list[Path],
    run: RunFolder,
    recipe: Recipe,
    encoder: PromptEncoder,
    gate: ParityGate,
    earlier: list[dict[str, Any]],
) -> None:
    record = gate.record(describe(recipe.data.eval))
    write_json(run.parity, {**record, "models": [*record["models"], *earlier]})
    folder = files[0].parent
    write_text(folder / "Modelfile", modelfile(encoder, files[0], recipe.model.max_seq_length))
    write_text(folder / "README.md", usage(encoder, files, gate.example))
