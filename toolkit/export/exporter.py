"""A trained run becomes files that llama.cpp runs: merge, convert, quantise, and prove that they answer alike."""

import hashlib
import logging
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from toolkit.data.examples import load_examples
from toolkit.data.sources import describe
from toolkit.errors import ParityError, StorageError
from toolkit.export.gguf_header import Origin
from toolkit.export.gguf_tokenizer import read_tokenizer
from toolkit.export.gguf_writer import gguf_bytes, write_gguf
from toolkit.export.llama_config import read_config
from toolkit.export.modelfile import modelfile, usage
from toolkit.export.parity_gate import Parity, ParityGate, Verify, choose_rows
from toolkit.export.quantization import find_quantizer, quantize_file
from toolkit.models.gguf_types import FILE_TYPES
from toolkit.models.merging import merge_adapter, merged_type
from toolkit.models.model_folder import card_license, find_base
from toolkit.models.parameters import model_config
from toolkit.prompts.encoder import PromptEncoder
from toolkit.prompts.tokenizer import load_tokenizer
from toolkit.recipe.schema import GgufType
from toolkit.reporting.html_report import write_report
from toolkit.reporting.run_results import load_parity
from toolkit.runs.run_folder import RunFolder
from toolkit.runs.trained_run import TrainedRun
from toolkit.utils.atomic_io import remove_leftovers, scratch_path, write_json, write_text

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ExportOptions:
    """What to write and how strictly to check it.

    Args:
        file_types: which GGUFs to write.
        verify: how many evaluation rows to compare on.
        min_agreement: the least share of equal predictions; None: see `ParityGate`.
        remove_merged: delete the merged weights at the end.
    """

    file_types: tuple[GgufType, ...]
    verify: Verify = 200
    min_agreement: float | None = None
    remove_merged: bool = False


@dataclass(frozen=True)
class ExportResult:
    """The files of an export, and how each answers next to the adapter.

    Args:
        files: the GGUFs.
        parity: one entry for the merged weights, where they were compared, and one for each file.
        table: the same as text for a terminal.
    """

    files: tuple[Path, ...]
    parity: tuple[Parity, ...]
    table: str

    @property
    def passed(self) -> bool:
        """Whether every model passes the gate."""
        return not any(entry.reasons for entry in self.parity)

    @property
    def agreement(self) -> dict[str, float]:
        """The share of predictions equal to the adapter's, by model (`merged`, `gguf-q8_0` ...)."""
        return {entry.model: entry.agreement.share for entry in self.parity}


def export_run(run: TrainedRun, options: ExportOptions) -> ExportResult:
    """Merge the adapter, write one GGUF per file type, and compare each with the adapter on evaluation rows.

    Args:
        run: a finished run.
        options: what to write and how strictly to check it.

    Raises:
        ModelError: the adapter does not fit the base, or llama.cpp cannot load a file.
        ExportError: the model is none that can be converted, or there is no quantizer.
        StorageError: the disk is too small.
        ParityError: a file does not answer as the adapter; all files are written, and parity.json says why.
    """
    folder, recipe = run.folder, run.recipe
    base = find_base(run)
    files = {file_type: folder.gguf(file_type) for file_type in options.file_types}
    for path in (folder.merged, folder.gguf("quantising"), *files.values()):
        remove_leftovers(path)  # it would count as disk that is not free
    _check_export(base, run, options.file_types)
    encoder = PromptEncoder(load_tokenizer(folder.adapter), recipe.task, recipe.model.max_seq_length)
    modelfile(encoder, next(iter(files.values())), recipe.model.max_seq_length)
    examples = choose_rows(load_examples(recipe, recipe.data.eval), options.verify, recipe.seed)
    gate = ParityGate(run, encoder, examples, options.min_agreement)
    logger.info("merging     %s + adapter into %s", recipe.model.name, folder.merged)
    merge_adapter(base, folder.adapter, folder.merged)
    gate.check_merged()
    earlier = _earlier_parity(folder, list(files.values()))
    _write_files(files, run, _origin(base, run))
    for file_type, file in files.items():
        logger.info("%-11s %s, %s MB", file_type, file, f"{file.stat().st_size / 1e6:,.1f}")
        gate.check_gguf(file_type, file)
    _write_companions(list(files.values()), run, encoder, gate, earlier)
    if options.remove_merged:
        shutil.rmtree(folder.merged)
    result = ExportResult(tuple(files.values()), tuple(gate.results), gate.table())
    report = write_report(run)
    logger.info("\n%s\n\nreport      %s", result.table, report)
    if gate.refused:
        raise ParityError(
            f"{', '.join(entry.model for entry in gate.refused)} of {run.path} does not answer as the adapter did.",
            hint=f"The reasons stand above and in {folder.parity}; the files are there to look into, not to ship.",
            result=result,
        )
    return result


def _check_export(base: Path, run: TrainedRun, file_types: Sequence[GgufType]) -> None:
    """What cannot be converted, quantised or held by the disk is refused before gigabytes are merged."""
    config = read_config(base)
    read_tokenizer(run.folder.adapter, config.vocab_size)
    if quantizer_types := [file_type for file_type in file_types if FILE_TYPES[file_type].needs_quantizer]:
        find_quantizer()
    source = merged_type(model_config(base))
    written_types = [source, *file_types]  # the merged weights are as large as a GGUF of their type
    needed = sum(gguf_bytes(base, file_type) for file_type in [*written_types, *([source] if quantizer_types else [])])
    free = shutil.disk_usage(run.path).free
    if needed > free:
        raise StorageError(
            f"The export needs {needed / 1e9:.1f} GB of disk, and {run.path} has {free / 1e9:.1f} GB free.",
            hint="Free some, write fewer file types, or move the run folder to a larger disk.",
        )


def _write_files(files: dict[GgufType, Path], run: TrainedRun, origin: Origin) -> None:
    merged, date = run.folder.merged, run.recipe.task.date_string

    def write(file_type: GgufType, destination: Path, name: str) -> None:
        write_gguf(merged, destination, file_type, date_string=date, name=name, origin=origin)

    for file_type, file in files.items():
        if not FILE_TYPES[file_type].needs_quantizer:
            write(file_type, file, file.stem)
    quantizer_types = [file_type for file_type in files if FILE_TYPES[file_type].needs_quantizer]
    if not quantizer_types:
        return
    with scratch_path(run.folder.gguf("quantising")) as source:
        # In the merged weights' own type: what is quantised is what was merged.
        write(merged_type(model_config(merged)), source, run.path.resolve().name)
        for file_type in quantizer_types:
            quantize_file(source, files[file_type], file_type)


def _earlier_parity(run: RunFolder, files: list[Path]) -> list[dict[str, Any]]:
    """Entries of an earlier export's files that are still there; of files that are written anew they are forgotten."""
    if (record := load_parity(run)) is None:
        return []
    existing = [entry for entry in record["models"] if entry.get("file") and (run.path / entry["file"]).is_file()]
    kept = [entry for entry in existing if run.path / entry["file"] not in files]
    write_json(run.parity, {**record, "models": kept})
    return kept


def _origin(base: Path, run: TrainedRun) -> Origin:
    name = run.recipe.model.name
    is_local = Path(name).is_dir()  # a folder of this machine is nobody else's business
    return Origin(
        recipe=hashlib.sha256(run.folder.recipe_file.read_bytes()).hexdigest(),
        base_model=Path(name).name if is_local else name,
        base_revision=None if is_local else run.record.get("model", {}).get("commit"),
        license_=card_license(base).get("license"),
    )


def _write_companions(
    files: list[Path], run: TrainedRun, encoder: PromptEncoder, gate: ParityGate, earlier: list[dict[str, Any]]
) -> None:
    recipe = run.recipe
    record = gate.record(describe(recipe.data.eval))
    write_json(run.folder.parity, {**record, "models": [*record["models"], *earlier]})
    folder = files[0].parent
    write_text(folder / "Modelfile", modelfile(encoder, files[0], recipe.model.max_seq_length))
    write_text(folder / "README.md", usage(encoder, files, gate.example))
