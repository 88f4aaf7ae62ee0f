"""The sentences and tables of a report, gathered from a run's files; how they look is the template's."""

import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from toolkit.data.sources import EMBEDDED
from toolkit.evaluation.formats import count, interval, percent
from toolkit.evaluation.prediction_summary import PredictionSummary, summarise_predictions
from toolkit.evaluation.report_facts import Fact, decisions, figures
from toolkit.evaluation.run_results import (
    Evaluation,
    load_evaluations,
    load_losses,
    load_parity,
    main_evaluation,
    with_base_zero_shot,
)
from toolkit.recipe import Recipe
from toolkit.recipe_file import as_assignment, load_recipe
from toolkit.run_folder import RunFolder, read_object

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
        return summarise_predictions(self.main.predictions)

    @property
    def language(self) -> str:
        """The rows' language, as HTML names it."""
        return content_language(self.recipe)

    @property
    def answer(self) -> tuple[str, str] | None:
        """The result and the rest of its sentence."""
        return (percent(self.main.metrics["accuracy"]), answer_rest(self.main)) if self.main else None

    @property
    def warnings(self) -> list[str]:
        """What a reader has to know before believing a number."""
        return list(dict.fromkeys(_warnings(self)))

    @property
    def decisions(self) -> list[Fact]:
        """What was chosen for this run, and why."""
        return list(decisions(self.record, self.recipe))

    @property
    def figures(self) -> list[Fact]:
        """What training took."""
        return list(figures(self.record))

    @property
    def commands(self) -> list[str]:
        """What makes the run and its evaluations again."""
        return list(_commands(self))


def gather(run: RunFolder, besides: Path | None = None) -> Report:
    """Read a run's files; those of the evaluation `besides` are left out.

    Raises:
        RunError: recipe.yaml or run.json is missing, or a file is not what it should be.
    """
    read_object(run.run_json)  # which may be missing for others, not for a report
    record, recipe = run.record, load_recipe(run.recipe)
    evaluations = with_base_zero_shot(load_evaluations(run, besides))
    steps, losses = load_losses(run)
    return Report(
        run=run,
        recipe=recipe,
        recipe_text=run.recipe.read_text(encoding="utf-8"),
        record=record,
        evaluations=evaluations,
        main=main_evaluation(evaluations),
        steps=steps,
        losses=losses,
        parity=load_parity(run),
    )


def answer_rest(evaluation: Evaluation) -> str:
    """What follows the accuracy in a sentence: interval, rows, and what one reaches without the model."""
    metrics = evaluation.metrics
    baselines = metrics.get("baselines") or {}
    floor = [f"chance {percent(baselines.get('random', evaluation.chance))}"]
    if "hypothesis_only" in baselines:
        floor.append(f"hypothesis-only {percent(baselines['hypothesis_only'])}")
    if baselines.get("base_zero_shot") is not None:
        floor.append(f"base model {percent(baselines['base_zero_shot'])}")
    rows = f"{count(metrics['n'])} rows"
    if evaluation.mode != "constrained":
        rows += f", answers unconstrained, {percent(metrics.get('invalid', 0) / metrics['n'])} of them no label"
    return f"{interval(metrics.get('accuracy_ci95'))} on {rows}; {', '.join(floor)}".strip()


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
    for one in report.evaluations:
        yield from one.metrics.get("warnings") or []
        rows = one.metrics.get("shortened_rows")
        if rows and one.metrics["model"] == "adapter":
            yield f"{one.name}: {count(rows)} rows lost the end of their premise to fit model.max_seq_length."
        known = data.get("eval", {}).get("fingerprint")
        if one.is_own and known and one.fingerprint and one.fingerprint != known:
            yield f"{one.name}: its rows are not those that training recorded; the data has changed since."
    if str(record.get("git_commit") or "").endswith("-dirty"):
        yield "The code had changes that were not committed, so the commit alone does not give this run again."


def _commands(report: Report) -> Iterator[str]:
    again = RunFolder(report.run.path.resolve().with_name(f"{report.name}-again"))
    if commit := report.record.get("git_commit"):
        yield f"git checkout {str(commit).removesuffix('-dirty')}"
    yield f"python scripts/sft.py {shlex.join([str(report.run.recipe), '--output-dir', str(again.path)])}"
    exported = [one.metrics["model"] for one in report.evaluations if one.metrics["model"] not in ("adapter", "base")]
    if exported:
        types = [model.removeprefix("gguf-") for model in dict.fromkeys(exported) if model != "merged"]
        quant = ["--quant", *types] if types else []
        yield f"python scripts/export_gguf.py {shlex.join([str(again.path), *quant])}"
    for one in report.evaluations:
        yield _evaluation_command(one, again)


def _evaluation_command(one: Evaluation, run: RunFolder) -> str:
    model, changed, flags = one.metrics["model"], one.overrides, [str(run.path)]
    if model.startswith("gguf-"):
        model = str(run.gguf(model.removeprefix("gguf-")))
    if model != "adapter":
        flags += ["--model", model]
    is_named = "data.eval.path" in changed or (one.source.startswith(f"{EMBEDDED}:") and "data.eval.split" in changed)
    if is_named:
        flags += ["--data", one.source]
    if one.mode != "constrained":
        flags += ["--mode", one.mode]
    if one.shots:
        flags += ["--shots", str(one.shots)]
    if one.limit:
        flags += ["--limit", str(one.limit)]
    said = ("data.eval.path", "data.eval.name", "data.eval.split") if is_named else ()
    others = {key: value for key, value in changed.items() if key not in (*said, "data.eval.limit")}
    for key, value in others.items():
        flags += ["--set", as_assignment(key, value)]
    return f"python scripts/eval_generate.py {shlex.join(flags)}"
