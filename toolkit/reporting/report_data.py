"""The sentences and tables of a report, gathered from a run's files; how they look is the template's."""

import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from toolkit.data.sources import EMBEDDED
from toolkit.evaluation.evaluation import Evaluation, load_evaluations, main_evaluation, with_base_zero_shot
from toolkit.recipe.loading import as_assignment
from toolkit.recipe.schema import Recipe
from toolkit.reporting.formats import count, interval, percent
from toolkit.reporting.prediction_summary import PredictionSummary, summarize_predictions
from toolkit.reporting.report_facts import Fact, decisions, training_facts
from toolkit.reporting.run_results import load_losses, load_parity
from toolkit.runs.run_folder import RunFolder, read_object
from toolkit.runs.trained_run import TrainedRun

BASELINES = {
    "random": "a uniform guess",
    "majority": "the commonest training label",
    "hypothesis_only": "TF-IDF and logistic regression, hypothesis alone",
    "premise_hypothesis": "TF-IDF and logistic regression, premise and hypothesis",
    "base_zero_shot": "the base model, zero-shot",
}
"""What the names in `baselines` of metrics.json stand for."""


@dataclass(frozen=True)
class Report:
    """Everything that the template shows.

    Args:
        main: the evaluation that speaks for the run, None before there is one.
    """

    run: RunFolder
    recipe: Recipe
    recipe_text: str
    record: dict[str, Any]
    evaluations: list[Evaluation]
    main: Evaluation | None
    steps: list[int]
    losses: list[float]
    parity: dict[str, Any] | None

    @property
    def name(self) -> str:
        """The run's."""
        return self.run.path.resolve().name

    @cached_property
    def summary(self) -> PredictionSummary:
        """Of the main evaluation's predictions; read when it is asked for."""
        if self.main is None or not self.main.predictions.is_file():
            return PredictionSummary()
        return summarize_predictions(self.main.predictions)

    @property
    def language(self) -> str:
        """The rows' language, as HTML names it."""
        return content_language(self.recipe)

    @property
    def headline(self) -> tuple[str, str] | None:
        """The result and the rest of its sentence."""
        return (percent(self.main.metrics["accuracy"]), headline_details(self.main)) if self.main else None

    @property
    def warnings(self) -> list[str]:
        """What a reader has to know before believing a number."""
        return list(dict.fromkeys(_warnings(self)))

    @property
    def decisions(self) -> list[Fact]:
        """What was chosen for this run, and why."""
        return list(decisions(self.record, self.recipe))

    @property
    def training_facts(self) -> list[Fact]:
        """What training took."""
        return list(training_facts(self.record))

    @property
    def commands(self) -> list[str]:
        """What makes the run and its evaluations again."""
        return list(_commands(self))


def gather_report(run: TrainedRun) -> Report:
    """Read a run's results.

    Raises:
        RunError: recipe.yaml or run.json is missing, or a file is not what it should be.
    """
    read_object(run.folder.run_json)  # which may be missing for others, not for a report
    evaluations = with_base_zero_shot(load_evaluations(run.folder))
    steps, losses = load_losses(run.folder)
    return Report(
        run=run.folder,
        recipe=run.saved_recipe,
        recipe_text=run.recipe_text,
        record=run.folder.record,
        evaluations=evaluations,
        main=main_evaluation(evaluations),
        steps=steps,
        losses=losses,
        parity=load_parity(run.folder),
    )


def headline_details(evaluation: Evaluation) -> str:
    """What follows the accuracy in a sentence: interval, rows, and what one reaches without the model."""
    metrics = evaluation.metrics
    baselines = metrics.get("baselines") or {}
    references = [f"chance {percent(baselines.get('random', evaluation.chance))}"]
    if "hypothesis_only" in baselines:
        references.append(f"hypothesis-only {percent(baselines['hypothesis_only'])}")
    if baselines.get("base_zero_shot") is not None:
        references.append(f"base model {percent(baselines['base_zero_shot'])}")
    rows = f"{count(metrics['n'])} rows"
    if evaluation.mode != "constrained":
        rows += f", answers unconstrained, {percent(metrics.get('invalid', 0) / metrics['n'])} of them no label"
    return f"{interval(metrics.get('accuracy_ci95'))} on {rows}; {', '.join(references)}".strip()


def content_language(recipe: Recipe) -> str:
    """The rows' language: the hub dataset's configuration where that is a language's code, as XNLI's are, else fr."""
    name = recipe.data.train.name or ""
    return name if len(name) == 2 and name.isalpha() and name.islower() else "fr"


def _warnings(report: Report) -> Iterator[str]:
    record, data = report.record, report.record.get("data", {})
    if (status := record.get("status")) != "completed":
        yield f"Training did not end as it should: run.json says {status or 'nothing'}."
    if report.main and report.main.metrics["model"] != "adapter":
        yield f"The adapter was not measured on the run's own rows; what is shown first is {report.main.name}."
    if pairs := data.get("overlap", {}).get("pairs"):
        yield f"{pairs:,} pairs stand in the training rows and in the evaluation rows: part of the score is memory."
    for evaluation in report.evaluations:
        yield from evaluation.metrics.get("warnings") or []
        rows = evaluation.metrics.get("shortened_rows")
        if rows and evaluation.metrics["model"] == "adapter":
            yield f"{evaluation.name}: {count(rows)} rows lost the end of their premise to fit model.max_seq_length."
        trained_on = data.get("eval", {}).get("fingerprint")
        if (
            evaluation.uses_run_recipe
            and trained_on
            and evaluation.fingerprint
            and evaluation.fingerprint != trained_on
        ):
            yield f"{evaluation.name}: its rows are not those that training recorded; the data has changed since."
    if str(record.get("git_commit") or "").endswith("-dirty"):
        yield "The code had changes that were not committed, so the commit alone does not give this run again."


def _commands(report: Report) -> Iterator[str]:
    rerun = RunFolder(report.run.path.resolve().with_name(f"{report.name}-again"))
    recipe_file = report.run.recipe_file
    if commit := report.record.get("git_commit"):
        yield f"git checkout {str(commit).removesuffix('-dirty')}"
    if "command" in report.record and report.record["command"] is None:  # Python called, not a script
        call = f"toolkit.train({str(recipe_file)!r}, output_dir={str(rerun.path)!r})"
        yield f"python -c {shlex.quote(f'import toolkit; {call}')}"
    else:
        yield f"python scripts/sft.py {shlex.join([str(recipe_file), '--output-dir', str(rerun.path)])}"
    exported_models = [
        evaluation.metrics["model"]
        for evaluation in report.evaluations
        if evaluation.metrics["model"] not in ("adapter", "base")
    ]
    if exported_models:
        types = [model.removeprefix("gguf-") for model in dict.fromkeys(exported_models) if model != "merged"]
        quant_flags = ["--quant", *types] if types else []
        yield f"python scripts/export_gguf.py {shlex.join([str(rerun.path), *quant_flags])}"
    for evaluation in report.evaluations:
        yield _evaluation_command(evaluation, rerun)


def _evaluation_command(evaluation: Evaluation, run: RunFolder) -> str:
    model, overrides, flags = evaluation.metrics["model"], evaluation.overrides, [str(run.path)]
    if model.startswith("gguf-"):
        model = str(run.gguf(model.removeprefix("gguf-")))
    if model != "adapter":
        flags += ["--model", model]
    needs_data_flag = "data.eval.path" in overrides or (
        evaluation.source.startswith(f"{EMBEDDED}:") and "data.eval.split" in overrides
    )
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
        flags += ["--set", as_assignment(key, value)]
    return f"python scripts/eval_generate.py {shlex.join(flags)}"
