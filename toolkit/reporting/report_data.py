"""The content of a report, gathered from the files of a run; the templates decide how it looks."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from toolkit.evaluation.baselines import ALL_INPUTS, bag_of_words_inputs
from toolkit.evaluation.evaluation import Evaluation, load_evaluations, main_evaluation, with_base_zero_shot
from toolkit.recipe.inputs import NLI_INPUTS, name_rows, name_texts
from toolkit.recipe.schema import Recipe
from toolkit.reporting.formats import count, interval, percent, shorten
from toolkit.reporting.prediction_summary import PredictionSummary, summarize_predictions
from toolkit.reporting.report_facts import Fact, decisions, training_facts
from toolkit.reporting.reproduction import reproduction_commands
from toolkit.reporting.run_results import DevScores, check_report_files, load_dev_scores, load_losses
from toolkit.runs.averaged import AveragedRun, describe_average
from toolkit.runs.imported import ImportedAdapter
from toolkit.runs.parity_record import load_existing_parity
from toolkit.runs.run_folder import RunFolder, read_json_object
from toolkit.runs.trained_run import TrainedRun
from toolkit.utils.formatting import join_names

_MAX_LABELS_IN_TITLE = 10


def describe_baselines(inputs: Sequence[str]) -> dict[str, str]:
    """Return a description of each key that the `baselines` field of metrics.json can have, for rows with `inputs`."""
    classifier = "TF-IDF and logistic regression on"
    return {
        "random": "uniform guess",
        "majority": "majority class of the training rows",
        **{
            baseline: f"{classifier} {join_names(names, 'and')}"
            if len(names) == len(inputs)
            else f"{classifier} the {names[0]} only"
            for baseline, names in bag_of_words_inputs(inputs).items()
        },
        "base_zero_shot": "base model, zero-shot",
    }


@dataclass(frozen=True)
class Report:
    """Everything that the templates show.

    Args:
        main: The evaluation that represents the run, or None before the first one.
    """

    run: RunFolder
    recipe: Recipe
    recipe_text: str
    record: dict[str, Any]
    evaluations: list[Evaluation]
    main: Evaluation | None
    steps: list[int]
    losses: list[float]
    dev_scores: list[DevScores]
    parity: dict[str, Any] | None

    @property
    def name(self) -> str:
        """The name of the run folder."""
        return self.run.path.resolve().name

    @property
    def target_modules(self) -> Sequence[str]:
        """The names of the linear layers with an adapter, which runs of earlier versions have only in their recipe."""
        return self.record.get("target_modules") or (self.recipe.lora.target_modules if self.recipe.lora else ())

    # cached_property also works on a frozen dataclass: it writes to __dict__ and bypasses __setattr__.
    @cached_property
    def summary(self) -> PredictionSummary:
        """A summary of the main evaluation's predictions, read on first use."""
        if self.main is None or not self.main.predictions.is_file():
            return PredictionSummary()
        return summarize_predictions(self.main.predictions, self.main.inputs)

    @property
    def language(self) -> str | None:
        """The language of the rows as an HTML `lang` value, or None if it is not known."""
        return content_language(self.recipe)

    @property
    def imported(self) -> ImportedAdapter | None:
        """The origin of the adapter, or None if the toolkit trained it."""
        return ImportedAdapter.from_record(self.record)

    @property
    def averaged(self) -> tuple[AveragedRun, ...]:
        """The runs that the adapter is the average of, none if it was trained."""
        return AveragedRun.from_record(self.record)

    @property
    def average(self) -> str:
        """The adapters that the adapter is the average of, as text; empty if it was trained."""
        return describe_average(self.averaged) if self.averaged else ""

    @property
    def question(self) -> str:
        """The labels as a question, or their number if there are many."""
        labels = self.recipe.task.labels
        if len(labels) > _MAX_LABELS_IN_TITLE:
            return f"Which of {len(labels):,} labels?"
        return f"{join_names([shorten(label) for label in labels], 'or')}?".replace("_", " ")

    @property
    def inputs(self) -> tuple[str, ...]:
        """The names of the inputs of the run's rows."""
        return self.recipe.task.inputs

    @property
    def given(self) -> str:
        """The inputs as part of a sentence, e.g. "a premise and a hypothesis"."""
        if self.inputs == NLI_INPUTS:
            return "a premise and a hypothesis"
        return f"the input{'s' if len(self.inputs) > 1 else ''} {join_names(self.inputs, 'and')}"

    @property
    def baselines(self) -> dict[str, str]:
        """Descriptions of the baselines, by their keys in metrics.json."""
        return describe_baselines(self.main.inputs if self.main else self.inputs)

    @property
    def headline(self) -> tuple[str, str] | None:
        """The accuracy and the rest of the sentence about it."""
        return (percent(self.main.metrics["accuracy"]), headline_details(self.main)) if self.main else None

    @property
    def warnings(self) -> list[str]:
        """Reasons to read the results with care, without duplicates."""
        # Evaluations of the same rows repeat the same warnings.
        return list(dict.fromkeys(_warnings(self)))

    @property
    def best_metric(self) -> str:
        """The metric by which the steps of the run were compared: nll, accuracy or macro_f1."""
        return self.recipe.training.best_metric

    @property
    def kept_step(self) -> int | None:
        """The step whose weights are the adapter, or None if the dev rows have not been compared."""
        kept: int | None = (self.record.get("validation") or {}).get("kept_step")
        return kept

    @property
    def decisions(self) -> list[Fact]:
        """The decisions made for this run, with their reasons."""
        return list(decisions(self.record, self.recipe))

    @property
    def training_facts(self) -> list[Fact]:
        """Facts about training: parameters, steps, time, memory."""
        return list(training_facts(self.record))

    @property
    def commands(self) -> list[str]:
        """The commands that reproduce the run and its evaluations."""
        return list(reproduction_commands(self.run, self.record, self.evaluations))


def gather_report(run: TrainedRun) -> Report:
    """Read the results of a run.

    Raises:
        RunError: If run.json or recipe.yaml is missing, or a file of the run is damaged.
        SealError: If a file that the report shows has changed since it was made.
    """
    check_report_files(run)
    read_json_object(run.folder.run_json)  # RunFolder.record accepts a missing run.json, a report does not
    evaluations = with_base_zero_shot(load_evaluations(run))
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
        dev_scores=load_dev_scores(run.folder),
        parity=load_existing_parity(run),
    )


def headline_details(evaluation: Evaluation) -> str:
    """Return what follows the accuracy in its sentence: interval, number of rows, and baselines."""
    metrics = evaluation.metrics
    baselines = metrics.get("baselines") or {}
    # With evaluation.baselines: false nothing is recorded, but chance follows from the number of labels.
    references = [f"chance is {percent(baselines.get('random', evaluation.chance))}"]
    if "hypothesis_only" in baselines:
        references.append(f"the hypothesis-only baseline reaches {percent(baselines['hypothesis_only'])}")
    if ALL_INPUTS in baselines:
        references.append(f"the bag-of-words baseline reaches {percent(baselines[ALL_INPUTS])}")
    if baselines.get("base_zero_shot") is not None:
        references.append(f"the base model reaches {percent(baselines['base_zero_shot'])}")
    rows = f"{count(metrics['n'])} rows"
    if evaluation.mode != "constrained":
        rows += (
            f" with free generation ({percent(metrics.get('invalid', 0) / metrics['n'])} of the answers are invalid)"
        )
    return f"accuracy {interval(metrics.get('accuracy_ci95'))} on {rows}; {', '.join(references)}".strip()


def content_language(recipe: Recipe) -> str | None:
    """Return the language code of the rows, or None if it is not known.

    XNLI and similar datasets on the Hub name their configurations after languages. Other pairs of a premise and a
    hypothesis are taken for French.
    """
    name = recipe.data.train.name or ""
    if len(name) == 2 and name.isalpha() and name.islower():
        return name
    return "fr" if recipe.task.inputs == NLI_INPUTS else None


def _warnings(report: Report) -> Iterator[str]:
    record, data = report.record, report.record.get("data", {})
    if report.imported:
        yield (
            f"The adapter was {report.imported}. Its training rows are not known, so evaluation rows could be among "
            "them; overlap was only checked with the rows of data.train."
        )
    if (status := record.get("status")) != "completed":
        yield f"Training did not complete. Its status in run.json is {status or 'missing'}."
    if report.main and report.main.metrics["model"] != "adapter":
        yield f"The adapter has not been evaluated on the evaluation rows. The headline shows {report.main.name}."
    overlap = data.get("overlap", {})
    if shared := overlap.get("pairs", overlap.get("rows")):
        rows = f"{shared:,} {name_rows(report.inputs)}"
        yield f"{rows} occur in both the training and the evaluation rows, so the score rewards memorization."
    for evaluation in report.evaluations:
        yield from evaluation.metrics.get("warnings") or []
        truncated = evaluation.metrics.get("shortened_rows")
        if truncated and evaluation.metrics["model"] == "adapter":
            rows = f"{name_texts(report.recipe.task.truncated_input)} of {count(truncated)} rows"
            yield f"{evaluation.name}: the {rows} were truncated to fit model.max_seq_length."
    if (report.parity or {}).get("accepted_changes"):
        yield "Files of the model had changed when it was exported, which was accepted: see gguf/parity.json."
    if str(record.get("git_commit") or "").endswith("-dirty"):
        yield "The code had uncommitted changes, so the recorded commit is not enough to reproduce this run."
