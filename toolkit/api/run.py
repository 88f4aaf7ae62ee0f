"""A trained run and its operations: evaluate, load, predict and export."""

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from toolkit.api.arguments import to_path
from toolkit.api.imports import import_backend
from toolkit.data.prediction_writers import check_formats
from toolkit.errors import ExportError
from toolkit.evaluation.request import EvaluationRequest, Mode
from toolkit.recipe.loading import Overrides, build_recipe
from toolkit.recipe.model_kind import require_decoder
from toolkit.recipe.schema import Recipe
from toolkit.recipe.section import GgufType
from toolkit.reporting.run_results import check_report_files
from toolkit.runs.model_ref import ModelRef
from toolkit.runs.run_paths import (
    check_can_create,
    check_name_length,
    check_name_printable,
    check_no_links,
    check_not_run_file,
    check_writable,
)
from toolkit.runs.trained_run import TrainedRun
from toolkit.utils.progress import Progress, show_progress

# Annotations only: importing these modules loads torch, which would make `import toolkit` slow.
if TYPE_CHECKING:
    from toolkit.evaluation.evaluation import Evaluation
    from toolkit.export.exporter import ExportResult
    from toolkit.inference.classifier import Classifier


class Run:
    """An open run: its files, its recipe, and the methods evaluate, load, predict_file and export.

    Args:
        trained: The files and the recipe of the run; see `open_run`.
    """

    def __init__(self, trained: TrainedRun) -> None:
        self._run = trained

    @property
    def path(self) -> Path:
        """The run folder."""
        return self._run.path

    @property
    def recipe(self) -> Recipe:
        """The recipe with the overrides that were passed to `open_run`."""
        return self._run.recipe

    @property
    def record(self) -> dict[str, Any]:
        """The content of run.json: versions, device, decisions, data, timings, status."""
        return self._run.folder.record

    @property
    def adapter(self) -> Path:
        """The folder of the adapter and its tokenizer."""
        return self._run.folder.adapter

    @property
    def report_path(self) -> Path:
        """The HTML report, which each evaluation and export rewrites."""
        return self._run.folder.report

    @property
    def model_card_path(self) -> Path:
        """The model card of the adapter, written once the adapter has been evaluated on the run's own rows."""
        return self._run.folder.model_card

    @property
    def evaluations(self) -> "list[Evaluation]":
        """All evaluations of the run: its own rows first, and the adapter before base, merged and GGUF files."""
        from toolkit.evaluation.evaluation import load_evaluations

        return load_evaluations(self._run)

    def __repr__(self) -> str:
        return f"Run({str(self.path)!r})"

    def evaluate(
        self,
        model: str | Path = "adapter",
        *,
        data: str | Path | None = None,
        limit: int | None = None,
        mode: Mode = "constrained",
        shots: int = 0,
        overrides: Overrides = (),
        progress: Progress = False,
    ) -> "Evaluation":
        """Evaluate a model on labeled rows, and update the report and the model card of the run.

        Args:
            model: adapter, base, merged, or the path of a GGUF file.
            data: A data file or `embedded:nli-fr:SPLIT`. The default is the evaluation rows of the recipe.
            limit: Score only the first N rows.
            mode: constrained (every answer is a label) or free.
            shots: The number of training rows shown as few-shot examples in each prompt; base model only.
            overrides: Changes to the recipe by dotted keys, only for this evaluation.
            progress: True for progress bars on standard error, or a callback.

        Raises:
            ToolkitError: If the model or the rows cannot be used, or are incompatible.
        """
        run = self._with_overrides(overrides)
        path = None if data is None else str(data)
        request = EvaluationRequest(ModelRef.parse(model), data=path, limit=limit, mode=mode, shots=shots)
        # Whatever can be refused is refused before the imports, which take seconds, and the scoring, which takes hours.
        request.check(run)
        check_report_files(run)
        import_backend(request.model)
        from toolkit.evaluation.evaluator import evaluate
        from toolkit.reporting.html_report import write_report
        from toolkit.reporting.model_card import write_model_card

        with show_progress(progress):
            evaluation = evaluate(run, request)
            # Both describe the run as it was trained, without the overrides of this call.
            write_model_card(self._run)
            write_report(self._run)
        return evaluation

    def load(
        self,
        model: str | Path = "adapter",
        *,
        calibrated: bool = False,
        overrides: Overrides = (),
        progress: Progress = False,
    ) -> "Classifier":
        """Return a classifier that keeps the model in memory between calls.

        Args:
            model: adapter, base, merged, or the path of a GGUF file.
            calibrated: Divide log-likelihoods by the temperature that was fitted when this model was evaluated.
            overrides: Changes to the recipe by dotted keys, only for this classifier.
            progress: True for progress bars on standard error, or a callback.

        Raises:
            ToolkitError: If the model does not exist, or `calibrated` is True and it has no temperature.
        """
        run, ref = self._with_overrides(overrides), ModelRef.parse(model)
        ref.check(run.folder, run.recipe.model.kind)
        import_backend(ref)
        from toolkit.inference.classifier import Classifier
        from toolkit.inference.prediction import load_temperature

        temperature = load_temperature(run, ref) if calibrated else 1.0
        return Classifier(run, ref, temperature=temperature, progress=progress)

    def predict_file(
        self,
        source: str | Path,
        target: str | Path,
        model: str | Path = "adapter",
        *,
        calibrated: bool = False,
        overrides: Overrides = (),
        progress: Progress = False,
    ) -> int:
        """Label each row of a file, and write the rows with all their columns in the same format.

        Scores are collected in `target`.partial. After an interruption, the same call resumes from there.

        Args:
            source: A file in any format that training reads; the recipe names its columns. A .txt file without a
                header has one text per line.
            target: The file to write, in the same format.
            model: adapter, base, merged, or the path of a GGUF file.
            calibrated: Divide log-likelihoods by the temperature that was fitted when this model was evaluated.
            overrides: Changes to the recipe by dotted keys, only for this file.
            progress: True for progress bars on standard error, or a callback.

        Returns:
            The number of rows whose text was truncated to fit, see `TaskSection.truncated_input`.

        Raises:
            ToolkitError: If rows cannot be scored (the message names them) or a file cannot be used; `target` is
                then left as it was.
        """
        # Bad paths are refused before the model is loaded, which can take minutes.
        source, target = to_path(source, "source"), to_path(target, "target")
        check_formats(source, target)
        check_not_run_file(target, hint="Choose another target.")
        check_writable(target.parent, hint="Choose another target.")
        check_name_length(target, "The name of target", hint="Choose another target.")
        check_can_create(target.parent, hint="Choose another target.")
        with self.load(model, calibrated=calibrated, overrides=overrides) as classifier:
            from toolkit.inference.prediction import predict_file

            with show_progress(progress):
                return predict_file(classifier, source, target)

    def export(
        self,
        *file_types: GgufType,
        verify: int | Literal["all"] = 200,
        min_agreement: float | None = None,
        remove_merged: bool = False,
        converter: str | Path | None = None,
        progress: Progress = False,
    ) -> "ExportResult":
        """Merge the adapter, write GGUF files, and compare the predictions of each with those of the adapter.

        Args:
            file_types: q8_0, f16 and so on. The default is those of the recipe.
            verify: The number of evaluation rows to compare on, or `all`.
            min_agreement: The smallest accepted share of equal predictions. The default is 0.99 for file types of 8
                bits and more, and 0.95 for smaller ones.
            remove_merged: Delete the merged weights at the end.
            converter: llama.cpp's own convert_hf_to_gguf.py, or the folder that contains it, for models that this
                toolkit cannot convert. It is run in a child process.
            progress: True for progress bars on standard error, or a callback.

        Raises:
            ToolkitError: If the model cannot be exported.
            ParityError: If the predictions of a file differ too often; the files are kept nevertheless.
        """
        hint = "GGUF files are only for decoders. Use the adapter instead."
        require_decoder(self.recipe.model.kind, "A GGUF export", hint=hint)
        check_no_links([self._run.folder.merged, self._run.folder.parity.parent])
        check_writable(self.path)
        check_name_printable(self.path, hint="Rename the run folder.")
        if changed := [key for key in self._run.overridden if key.startswith("task.")]:
            raise ExportError(
                f"{changed[0]} is overridden, but a GGUF file is used with the prompt that the run was trained on.",
                hint="Leave out the overrides.",
            )
        gguf = self._run.folder.gguf("quantizing")  # the longest name
        check_name_length(gguf, f"The name of the run folder {self.path.resolve()}", hint="Rename the run folder.")
        _check_export(file_types, verify, min_agreement)
        # dict.fromkeys removes duplicates and keeps the order.
        types = tuple(dict.fromkeys(file_types or self.recipe.export.gguf))
        from toolkit.export.converter import Converter

        program = None if converter is None else Converter.find(to_path(converter, "converter"), self.path)
        import_backend()
        from toolkit.export.exporter import ExportOptions, export_run

        options = ExportOptions(types, verify, min_agreement, remove_merged, program)
        with show_progress(progress):
            return export_run(self._run, options)

    def _with_overrides(self, overrides: Overrides) -> TrainedRun:
        if not overrides:
            return self._run  # the same object, which keeps its cached record
        values = self._run.recipe.model_dump(mode="json")
        return self._run.with_overrides(build_recipe(values, self._run.folder.recipe_file.name, overrides))


def _check_export(file_types: tuple[GgufType, ...], verify: int | Literal["all"], min_agreement: float | None) -> None:
    """Check values that argparse checks for the command line."""
    # Python does not enforce type hints, so a caller can pass anything.
    known = get_args(GgufType)
    if unknown := [file_type for file_type in file_types if file_type not in known]:
        raise ExportError(f"{unknown[0]!r} is not a GGUF file type.", hint=f"Choose from {', '.join(known)}.")
    if verify != "all" and (not isinstance(verify, int) or verify < 1):
        raise ExportError(
            f"verify is {verify!r}, which is neither a number of rows nor all.",
            hint='Pass a positive integer or "all".',
        )
    if min_agreement is not None and not 0 < min_agreement <= 1:
        raise ExportError(
            f"min_agreement is {min_agreement!r}, which is not above 0 and at most 1.",
            hint="Pass a share such as 0.99.",
        )


def open_run(
    path: str | Path, overrides: Overrides = (), *, base: str | Path | None = None, accept_changes: bool = False
) -> Run:
    """Open the folder of a finished run, and check its files against the digests that were recorded after training.

    Args:
        path: The run folder, e.g. outputs/nli_fr.
        overrides: Changes to its recipe by dotted keys, for everything that is done with the returned run.
        base: The folder of the base model, if it has moved. Its digests must be those of the original.
        accept_changes: Use files that have changed since they were recorded. Results then list the changes.

    Raises:
        RunError: If the folder does not exist or contains no finished run.
        RecipeError: If recipe.yaml is damaged, or an override cannot be used.
        SealError: If the recipe or the adapter has changed since training.
    """
    base = None if base is None else to_path(base, "base")
    return Run(TrainedRun.open(to_path(path, "path"), overrides, base=base, accept_changes=accept_changes))
