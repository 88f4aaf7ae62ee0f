"""A trained run, and what can be done with it."""

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from toolkit.api.arguments import to_path
from toolkit.api.imports import import_backend
from toolkit.data.prediction_writers import check_formats
from toolkit.errors import ExportError
from toolkit.evaluation.request import EvaluationRequest, Mode
from toolkit.recipe.loading import Overrides, build_recipe
from toolkit.recipe.model_kind import require_decoder
from toolkit.recipe.schema import GgufType, Recipe
from toolkit.reporting.run_results import check_report_files
from toolkit.runs.model_ref import ModelRef
from toolkit.runs.run_paths import check_writable
from toolkit.runs.trained_run import TrainedRun
from toolkit.utils.progress import Progress, show_progress

if TYPE_CHECKING:
    from toolkit.evaluation.evaluation import Evaluation
    from toolkit.export.exporter import ExportResult
    from toolkit.inference.classifier import Classifier


class Run:
    """An open run: its files, its recipe, and the verbs evaluate, load, predict_file and export.

    Args:
        trained: the run's files and recipe; see `open_run`.
    """

    def __init__(self, trained: TrainedRun) -> None:
        self._run = trained

    @property
    def path(self) -> Path:
        """The run's folder."""
        return self._run.path

    @property
    def recipe(self) -> Recipe:
        """The recipe, with what `open_run` was told to override."""
        return self._run.recipe

    @property
    def record(self) -> dict[str, Any]:
        """What run.json holds: versions, device, decisions, data, timings, status."""
        return self._run.folder.record

    @property
    def adapter(self) -> Path:
        """The folder of the adapter and its tokenizer."""
        return self._run.folder.adapter

    @property
    def report_path(self) -> Path:
        """The HTML report; each evaluation and export renews it."""
        return self._run.folder.report

    @property
    def model_card_path(self) -> Path:
        """The adapter's model card, written once the adapter was measured on the run's own rows."""
        return self._run.folder.model_card

    @property
    def evaluations(self) -> "list[Evaluation]":
        """All evaluations of the run: those of its own rows first, the adapter before base, merged and GGUFs."""
        from toolkit.evaluation.evaluation import load_evaluations

        return load_evaluations(self._run.folder)

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
        """Measure a model on labelled rows, and renew the run's report and model card.

        Args:
            model: adapter, base, merged, or the path of a GGUF file.
            data: a data file or `embedded:nli-fr:SPLIT`; default: the recipe's evaluation rows.
            limit: the first N rows only.
            mode: constrained to the labels, or free.
            shots: training rows shown as solved examples before each question; for the base model.
            overrides: changes of the recipe for this evaluation alone, by dotted keys.
            progress: True for progress bars on standard error, or a callback.

        Raises:
            ToolkitError: the model, the rows or the two together cannot be used.
        """
        run = self._overridden(overrides)
        path = None if data is None else str(data)
        request = EvaluationRequest(ModelRef.parse(model), data=path, limit=limit, mode=mode, shots=shots)
        request.check(run)
        check_report_files(run)
        import_backend(request.model)
        from toolkit.evaluation.evaluator import evaluate
        from toolkit.reporting.html_report import write_report
        from toolkit.reporting.model_card import write_model_card

        with show_progress(progress):
            evaluation = evaluate(run, request)
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
            calibrated: divide log-likelihoods by the temperature that the model's evaluation found.
            overrides: changes of the recipe for this classifier alone, by dotted keys.
            progress: True for progress bars on standard error, or a callback.

        Raises:
            ToolkitError: there is no such model, or it was never calibrated.
        """
        run, ref = self._overridden(overrides), ModelRef.parse(model)
        ref.check(run.folder, run.recipe.model.kind)
        import_backend(ref)
        from toolkit.inference.classifier import Classifier
        from toolkit.inference.prediction import stored_temperature

        temperature = stored_temperature(run, ref) if calibrated else 1.0
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
        """Label each row of a file and write them, with all their columns, in the same format.

        Scores gather in `target`.partial, from which the same call resumes after an interruption.

        Args:
            source: a .jsonl, .csv, .tsv or .parquet file; the recipe names its columns.
            target: the file to write, with the same ending.
            model: adapter, base, merged, or the path of a GGUF file.
            calibrated: divide log-likelihoods by the temperature that the model's evaluation found.
            overrides: changes of the recipe for this file alone, by dotted keys.
            progress: True for progress bars on standard error, or a callback.

        Returns:
            How many premises lost their end to fit.

        Raises:
            ToolkitError: naming the rows that cannot be scored, or what else is wrong; `target` is untouched.
        """
        source, target = to_path(source, "source"), to_path(target, "target")
        check_formats(source, target)
        check_writable(target.parent, hint="Give another target.")
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
        progress: Progress = False,
    ) -> "ExportResult":
        """Merge the adapter, write GGUF files, and compare each with the adapter.

        Args:
            file_types: q8_0, f16 ...; default: the recipe's.
            verify: how many evaluation rows to compare on, or `all`.
            min_agreement: the least share of equal predictions; default: 0.99 from 8 bits on, 0.95 below.
            remove_merged: delete the merged weights at the end.
            progress: True for progress bars on standard error, or a callback.

        Raises:
            ToolkitError: the model cannot be exported.
            ParityError: a file does not answer as the adapter did; the files are written all the same.
        """
        hint = "llama.cpp's files are for decoders; keep the adapter."
        require_decoder(self.recipe.model.kind, "A GGUF export", hint=hint)
        check_writable(self.path)
        _check_export(file_types, verify, min_agreement)
        types = tuple(dict.fromkeys(file_types or self.recipe.export.gguf))
        import_backend()
        from toolkit.export.exporter import ExportOptions, export_run

        options = ExportOptions(types, verify=verify, min_agreement=min_agreement, remove_merged=remove_merged)
        with show_progress(progress):
            return export_run(self._run, options)

    def _overridden(self, overrides: Overrides) -> TrainedRun:
        if not overrides:
            return self._run
        values = self._run.recipe.model_dump(mode="json")
        return self._run.with_recipe(build_recipe(values, self._run.folder.recipe_file.name, overrides))


def _check_export(file_types: tuple[GgufType, ...], verify: int | Literal["all"], min_agreement: float | None) -> None:
    """Refuse values that the command line cannot give, and Python can."""
    known = get_args(GgufType)
    if unknown := [file_type for file_type in file_types if file_type not in known]:
        raise ExportError(f"{unknown[0]!r} is not a GGUF file type.", hint=f"Choose from {', '.join(known)}.")
    if verify != "all" and (not isinstance(verify, int) or verify < 1):
        raise ExportError(f"verify is {verify!r}, which is neither a number of rows nor all.", hint="Give 200, say.")
    if min_agreement is not None and not 0 < min_agreement <= 1:
        raise ExportError(
            f"min_agreement is {min_agreement!r}, not a share above 0 and up to 1.", hint="Give 0.99, say."
        )


def open_run(path: str | Path, overrides: Overrides = ()) -> Run:
    """Open the folder of a finished run.

    Args:
        path: the run folder, e.g. outputs/nli_fr.
        overrides: changes of its recipe for what is done with it, by dotted keys.

    Raises:
        RunError: there is no such folder, or no finished run in it.
        RecipeError: recipe.yaml is damaged, or an override cannot be used.
    """
    return Run(TrainedRun.open(to_path(path, "path"), overrides))
