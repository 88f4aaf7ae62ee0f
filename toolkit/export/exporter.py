"""The export of a trained run to GGUF: merge, convert, quantize, and check each file against the adapter."""

import hashlib
import logging
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from toolkit.data.examples import with_task_labels
from toolkit.data.sources import describe
from toolkit.data.splits import load_evaluation_rows
from toolkit.errors import ExportError, ParityError, StorageError
from toolkit.evaluation.evaluation import load_evaluations
from toolkit.export.converter import Converter, needs_quantizer
from toolkit.export.gguf_header import Origin
from toolkit.export.gguf_tokenizer import read_tokenizer
from toolkit.export.gguf_writer import gguf_bytes, write_gguf
from toolkit.export.modelfile import render_modelfile, render_readme
from toolkit.export.parity_gate import Parity, ParityGate, Verify, choose_rows
from toolkit.export.quantization import find_quantizer, quantize_file
from toolkit.models.decoder_config import read_config
from toolkit.models.gguf_types import FILE_TYPES
from toolkit.models.merging import check_mergeable, merge_adapter, merged_type
from toolkit.models.model_folder import card_license, find_base
from toolkit.models.parameters import count_parameters, model_config
from toolkit.prompts.prompt_tokenizer import PromptTokenizer
from toolkit.prompts.tokenizer import load_tokenizer
from toolkit.recipe.section import GgufType
from toolkit.reporting.html_report import write_report
from toolkit.reporting.run_results import check_report_files
from toolkit.runs.digests import combine, digest_files
from toolkit.runs.parity_record import forget_files, write_parity
from toolkit.runs.seal import base_files
from toolkit.runs.trained_run import TrainedRun, seal_merged
from toolkit.utils.atomic_io import remove_leftovers, scratch_path, write_text
from toolkit.utils.formatting import format_bytes
from toolkit.utils.storage import folder_lock

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ExportOptions:
    """The files to write and how strictly to check them.

    Args:
        file_types: The GGUF file types to write.
        verify: The number of evaluation rows to compare on, or "all".
        min_agreement: The smallest acceptable share of equal predictions. None takes the defaults of `ParityGate`.
        remove_merged: If true, delete the merged weights at the end.
        converter: llama.cpp's own converter, which then writes the files instead of `gguf_writer`.
    """

    file_types: tuple[GgufType, ...]
    verify: Verify = 200
    min_agreement: float | None = None
    remove_merged: bool = False
    converter: Converter | None = None


@dataclass(frozen=True)
class ExportResult:
    """The files of an export and their agreement with the adapter.

    Args:
        files: The GGUF files.
        parity: One entry for the merged weights and one for each file.
        table: The same results as text for a terminal.
    """

    files: tuple[Path, ...]
    parity: tuple[Parity, ...]
    table: str

    @property
    def passed(self) -> bool:
        """True if every model passes the gate."""
        return not any(entry.reasons for entry in self.parity)

    @property
    def agreement(self) -> dict[str, float]:
        """The share of predictions that equal the adapter's, by model (`merged`, `gguf-q8_0`, ...)."""
        return {entry.model: entry.agreement.share for entry in self.parity}


def export_run(run: TrainedRun, options: ExportOptions) -> ExportResult:
    """Merge the adapter, write one GGUF file per file type, and compare each with the adapter on evaluation rows.

    Args:
        run: A finished run.
        options: The files to write and how strictly to check them.

    Raises:
        ModelError: If the adapter does not fit the base model, or llama.cpp cannot load a file.
        ExportError: If the model cannot be converted, or no quantizer is installed.
        ConverterError: If llama.cpp's own converter fails.
        StorageError: If the disk has too little free space.
        ParityError: If a file does not answer like the adapter. All files are kept, and parity.json has the reasons.
    """
    run = run.for_one_result()
    folder, recipe = run.folder, run.recipe
    files = {file_type: folder.gguf(file_type) for file_type in options.file_types}
    # Everything that the report at the end reads is checked before hours of work.
    check_report_files(run, replacing=files.values())
    load_evaluations(run)
    run.verify_adapter()
    base = find_base(run)
    for path in (folder.merged, folder.gguf("quantizing"), folder.parity.with_name("converted"), *files.values()):
        remove_leftovers(path)  # partial files of a killed export would count as used disk space in the check below
    _check_export(base, run, options)
    prompt_tokenizer = PromptTokenizer(load_tokenizer(folder.adapter), recipe.task, recipe.model.max_seq_length)
    # Called only for its errors: a prompt that no Modelfile can hold is refused before the long work.
    render_modelfile(prompt_tokenizer, next(iter(files.values())), recipe.model.max_seq_length)
    examples = choose_rows(load_evaluation_rows(recipe), options.verify, recipe.seed)
    if options.converter is None:
        read_config(base).check_length(max(map(len, prompt_tokenizer.encode(with_task_labels(recipe, examples)))))
    gate = ParityGate(run, prompt_tokenizer, examples, options.min_agreement)
    # Two exports at the same time would delete each other's merged weights.
    with folder_lock(folder.parity.parent, create=True):
        _write_and_compare(run, options, files, base, gate)
    result = ExportResult(tuple(files.values()), tuple(gate.results), gate.table())
    report = write_report(run)
    logger.info("\n%s\n\nreport      %s", result.table, report)
    if warning := recipe.training.chat_warning:
        logger.warning("WARNING     %s", warning)
    if gate.refused:
        raise ParityError(
            f"Files of {run.path} do not answer like the adapter: {', '.join(entry.model for entry in gate.refused)}.",
            hint=f"See the reasons above and in {folder.parity}. The files are kept for inspection. Do not ship them.",
            result=result,
        )
    return result


def _write_and_compare(
    run: TrainedRun, options: ExportOptions, files: dict[GgufType, Path], base: Path, gate: ParityGate
) -> None:
    folder, adapter_sha256 = run.folder, run.adapter_sha256
    logger.info("merging     %s + adapter into %s", run.recipe.model.name, folder.merged)
    with folder_lock(run.path):
        run.verify_unreplaced(adapter_sha256)
        merge_adapter(base, folder.adapter, folder.merged)
        seal_merged(run)
    gate.check_merged()
    with folder_lock(run.path):
        run.verify_unreplaced(adapter_sha256)
        earlier = forget_files(run, list(files.values()))
        _write_files(files, run, base, options.converter)
    for file_type, file in files.items():
        logger.info("%-11s %s, %s", file_type, file, format_bytes(file.stat().st_size))
        gate.check_gguf(file_type, file)
    with folder_lock(run.path):
        run.verify_unreplaced(adapter_sha256)
        _write_companions(list(files.values()), run, gate, earlier, options.converter)
        if options.remove_merged:
            shutil.rmtree(folder.merged)


def _check_export(base: Path, run: TrainedRun, options: ExportOptions) -> None:
    """Check that model, tokenizer, quantizer, and disk space allow the export, before gigabytes are merged."""
    converter, file_types = options.converter, options.file_types
    check_mergeable(base)
    problem = _find_writer_problem(base, run)
    if converter is None and problem is not None:
        raise problem
    if converter is not None:
        reason = str(problem) if problem else "The toolkit could write them, too."
        logger.info("converter   %s writes the files. %s", converter.path, reason)
        Converter.find(converter.path, base).check(base, file_types)
    quantizer_types = [file_type for file_type in file_types if needs_quantizer(file_type, converter)]
    if quantizer_types:
        find_quantizer()
    source = merged_type(model_config(base))
    written_types = [source, *file_types]  # the merged weights are as large as a GGUF file of their type
    if quantizer_types:
        written_types.append(source)
    if converter is None:
        needed = sum(gguf_bytes(base, file_type) for file_type in written_types)
    else:
        counts = count_parameters(base, run.recipe.decoder_lora)
        sizes = [FILE_TYPES[name].largest_file_bytes(counts.total - counts.trainable) for name in written_types]
        needed = sum(sizes) + max(sizes)  # a converted file is copied once, with the toolkit's metadata
    free = shutil.disk_usage(run.path).free
    if needed > free:
        raise StorageError(
            f"The export needs {format_bytes(needed)} of disk space, but {run.path} has {format_bytes(free)} free.",
            hint="Free disk space, write fewer file types, or move the run folder to a larger disk.",
        )


def _find_writer_problem(base: Path, run: TrainedRun) -> ExportError | None:
    """Return the reason why `gguf_writer` cannot write the model, or None."""
    try:
        read_tokenizer(run.folder.adapter, read_config(base).vocab_size)
    except ExportError as error:
        return error
    return None


def _write_files(files: dict[GgufType, Path], run: TrainedRun, base: Path, converter: Converter | None) -> None:
    merged, date, origin = run.folder.merged, run.recipe.task.date_string, _read_origin(base, run)

    def write(file_type: GgufType, destination: Path, name: str) -> None:
        if converter is None:
            write_gguf(merged, destination, file_type, date_string=date, name=name, origin=origin)
        else:
            converter.convert(merged, destination, file_type, base=base, date_string=date, name=name, origin=origin)

    quantizer_types = [file_type for file_type in files if needs_quantizer(file_type, converter)]
    for file_type, file in files.items():
        if file_type not in quantizer_types:
            write(file_type, file, file.stem)
    if not quantizer_types:
        return
    with scratch_path(run.folder.gguf("quantizing")) as source:
        # The quantizer reads the merged weights in their own dtype, so that no rounding comes before quantization.
        write(merged_type(model_config(merged)), source, run.path.resolve().name)
        for file_type in quantizer_types:
            quantize_file(source, files[file_type], file_type)


def _read_origin(base: Path, run: TrainedRun) -> Origin:
    name = run.recipe.model.name
    is_local = Path(name).is_dir()  # published files must not reveal a path on this machine
    return Origin(
        recipe=hashlib.sha256(run.folder.recipe_file.read_bytes()).hexdigest(),
        base_model=Path(name).name if is_local else name,
        # Digests of the files as they are, which differ from the recorded ones if changes were accepted.
        adapter=run.adapter_sha256,
        base=combine(digest_files(base, base_files(base), run.path)),
        base_revision=None if is_local else run.record.get("model", {}).get("commit"),
        license_=card_license(base).get("license"),
    )


def _write_companions(
    files: list[Path],
    run: TrainedRun,
    gate: ParityGate,
    earlier: list[dict[str, Any]],
    converter: Converter | None,
) -> None:
    recipe, prompt_tokenizer = run.recipe, gate.prompt_tokenizer
    record = gate.record(describe(recipe.data.eval))
    for entry in record["models"]:
        if converter is not None and entry["file"]:
            entry["converter"] = converter.record
    if run.accepted:
        record |= {"accepted_changes": list(run.accepted)}
    models = [*record["models"], *earlier]
    write_parity(run, {**record, "models": models})
    verdicts = {run.path / entry["file"]: entry.get("verdict") for entry in models if entry["file"]}
    # The instructions are for files that passed, of an earlier export too. Refused files are only for inspection.
    refused = [file for file, verdict in verdicts.items() if verdict == "refused"]
    usable = [file for file in verdicts if file not in refused] or files
    folder, warning = files[0].parent, recipe.training.chat_warning
    write_text(folder / "Modelfile", render_modelfile(prompt_tokenizer, usable[0], recipe.model.max_seq_length))
    write_text(folder / "README.md", render_readme(prompt_tokenizer, usable, gate.example, warning, refused=refused))
