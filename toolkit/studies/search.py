"""A search for hyperparameters: Optuna samples and prunes, and the trials are ordinary runs of the study.

Trials are judged on the dev rows of the recipe, so the evaluation rows are not used to choose settings. The best of
many trials looks better than it is, so the finalists become variants, which are trained again with all seeds.
"""

import hashlib
import json
import logging
from collections import defaultdict
from collections.abc import Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from threading import Lock
from typing import Any

from toolkit.errors import RecipeError, RunError, ToolkitError, first_line
from toolkit.models.model_folder import model_fingerprint
from toolkit.recipe.loading import Overrides, build_recipe, load_recipe
from toolkit.runs.run_folder import read_json_object
from toolkit.studies.cells import Cell
from toolkit.studies.runner import CellRunner
from toolkit.studies.schema import FINALIST_PREFIX, SearchSection, Study, VariantSection
from toolkit.studies.search_space import (
    boundary_values,
    describe_values,
    distribution,
    import_optuna,
    trial_name,
    unique_name,
    values_digest,
)
from toolkit.studies.study_folder import StudyFolder
from toolkit.utils.atomic_io import write_json

logger = logging.getLogger(__name__)

_INTERRUPTED = "interrupted"
_IDENTITY = "search.json"
_STATES = {"COMPLETE": "completed", "FAIL": "failed"}
_STARTUP_TRIALS = 5
"""The number of complete trials before one is pruned."""


@dataclass
class Search:
    """A search in the folder of a study, whose trials are saved in search.db.

    Args:
        study: A study with a search.
        folder: Its folder.
        overrides: Changes to the recipe, see `make_cells`.
    """

    study: Study
    folder: StudyFolder
    overrides: Overrides = ()
    _optuna_study: Any = field(default=None, init=False)
    _locks: defaultdict[str, Lock] = field(default_factory=lambda: defaultdict(Lock), init=False)

    @property
    def section(self) -> SearchSection:
        """The section `search` of the study."""
        if self.study.search is None:
            raise ValueError("the study has no search")
        return self.study.search

    @cached_property
    def _values(self) -> dict[str, Any]:
        """The recipe before a trial changes it, as plain values."""
        path = Path(self.study.recipe or "")
        recipe = load_recipe(path, self.study.overrides).model_dump(mode="json")
        return build_recipe(recipe, path.name, self.overrides).model_dump(mode="json")

    @property
    def _metric(self) -> str:
        return str(self._values["training"]["best_metric"])

    def trial_cell(self, values: Mapping[str, Any]) -> Cell:
        """Return the run of a trial, named after its values, or raise RecipeError if the recipe does not accept them.

        With the same name, an interrupted trial finds its run again.
        """
        changes, name = {**values, "seed": self.study.seeds[0]}, Path(self.study.recipe or "").name
        return Cell(trial_name(values), build_recipe(self._values, name, changes), ())

    def check(self) -> None:
        """Check that the trials in search.db, if there are any, are those of this search.

        Raises:
            RunError: If what they depend on has changed since the search started.
        """
        path = self.folder.path / _IDENTITY
        if not path.is_file() and self._database.is_file():
            raise RunError(
                f"{self._database} belongs to a search, but {path} is missing.",
                hint="Restore it, or choose another folder with output_dir.",
            )
        if path.is_file() and read_json_object(path) != self._identity:
            raise RunError(
                f"The recipe, space, seed, pruning, training rows, dev rows or base model of the search in "
                f"{self.folder.path} has changed since the search started.",
                hint="Restore them, or choose another folder with output_dir. Trials can be added, but not changed.",
            )

    @property
    def _database(self) -> Path:
        return self.folder.path / "search.db"

    @cached_property
    def _identity(self) -> dict[str, Any]:
        """Everything that the trials depend on besides their values, saved as search.json."""
        from toolkit.api.preflight import preflight

        models = boundary_values(self.section.space.get("model.name", (self._values["model"]["name"],)))
        reports = [preflight(self.trial_cell(self._start | {"model.name": name}).recipe) for name in models]
        rows = reports[0].preflight.record()["data"]
        return {
            "recipe": self._values,
            "seed": self.study.seeds[0],
            "search": self.section.model_dump(mode="json", exclude={"trials", "finalists"}),
            "rows": {name: rows[name]["fingerprint"] for name in ("train", "dev")},
            "models": [model_fingerprint(report.preflight.folder) for report in reports],
        }

    @property
    def _start(self) -> dict[str, Any]:
        """The lower end of each range and the first of each list of choices."""
        return {key: boundary_values(space)[0] for key, space in self.section.space.items()}

    def boundary_cells(self) -> list[Cell]:
        """Return a cell for each end of each range and each choice, to check them before the search starts.

        Raises:
            RecipeError: If the recipe does not accept a value or has no dev rows, or Optuna is not installed.
        """
        import_optuna()
        cells = {}
        for key, space in self.section.space.items():
            for value in boundary_values(space):
                cell = self.trial_cell(self._start | {key: value})
                cells[cell.name] = cell
        for cell in cells.values():
            if not cell.recipe.data.has_dev or cell.recipe.training.eval_steps is None:
                raise RecipeError(
                    "search: the recipe has no validation, which judges the trials.",
                    hint="Set data.dev_share under `overrides` in the study, e.g. 0.1, and keep training.eval_steps.",
                )
        return list(cells.values())

    def run(self, runner: CellRunner) -> tuple[VariantSection, ...]:
        """Run the trials that are missing, and return the finalists as variants; none if no trial was completed.

        Raises:
            RunError: If the trials cannot be read or saved.
        """
        with self._database_errors():
            self._open()
            self._run_trials(runner)
            return self._finalists()

    def _open(self) -> None:
        optuna = import_optuna()
        write_json(self.folder.path / _IDENTITY, self._identity)
        self._optuna_study = optuna.create_study(
            storage=f"sqlite:///{self._database}",
            study_name="search",
            load_if_exists=True,
            direction="minimize" if self._metric == "nll" else "maximize",
            pruner=optuna.pruners.MedianPruner(n_startup_trials=_STARTUP_TRIALS)
            if self.section.pruning
            else optuna.pruners.NopPruner(),
        )
        self._requeue_interrupted()

    def _run_trials(self, runner: CellRunner) -> None:
        jobs = runner.jobs
        with ThreadPoolExecutor(jobs) as executor, runner.stop_cells_on_error():
            running: dict[Future[str], Any] = {}
            while running or self._missing():
                while len(running) < min(jobs, self._missing()):
                    trial = self._ask()
                    running[executor.submit(self._run_trial, runner, trial)] = trial
                # In short waits, because Python handles Ctrl-C only between two waits of the main thread.
                for future in wait(running, timeout=0.5, return_when=FIRST_COMPLETED).done:
                    self._tell(running.pop(future), future.result())

    @contextmanager
    def _database_errors(self) -> Iterator[None]:
        """Turn errors of the database and of Optuna into one sentence."""
        from sqlalchemy.exc import SQLAlchemyError

        try:
            yield
        except (SQLAlchemyError, import_optuna().exceptions.OptunaError) as error:
            raise RunError(
                f"The trials in {self._database} cannot be used: {first_line(error)}.",
                hint="Restore the file, or choose another folder with output_dir.",
            ) from error

    def _requeue_interrupted(self) -> None:
        """Queue the trials that a stopped study was running, so that their runs resume."""
        for trial in self._optuna_study.trials:
            if trial.state.name == "RUNNING":
                self._optuna_study.tell(trial.number, state=import_optuna().trial.TrialState.FAIL)
                self._optuna_study.enqueue_trial(trial.params, user_attrs={_INTERRUPTED: trial.number})

    def _own_trials(self) -> list[Any]:
        """Return all trials except those that were interrupted and queued again."""
        trials = self._optuna_study.trials if self._optuna_study else []
        requeued = {trial.user_attrs.get(_INTERRUPTED) for trial in trials}
        return [trial for trial in trials if trial.number not in requeued]

    def _missing(self) -> int:
        """Return the number of trials that have not ended yet."""
        ended = sum(trial.state.is_finished() for trial in self._own_trials())
        return max(0, self.section.trials - ended)

    def _ask(self) -> Any:
        optuna = import_optuna()
        # Each trial gets its own sampler seed: a sampler recreated after a restart would repeat its first draws.
        digest = hashlib.sha256(f"{self.section.seed} {len(self._optuna_study.trials)}".encode()).digest()
        self._optuna_study.sampler = optuna.samplers.TPESampler(seed=int.from_bytes(digest[:4], "big"))
        return self._optuna_study.ask({key: distribution(space) for key, space in self.section.space.items()})

    def _run_trial(self, runner: CellRunner, trial: Any) -> str:
        """Run a trial, and return an error, or ""."""
        reported: set[int] = set()
        try:
            cell = self.trial_cell(trial.params)
        except ToolkitError as error:  # a combination of values that the recipe does not accept
            return str(error)

        def should_prune() -> bool:
            for step, value in self._dev_values(cell.name):
                if step not in reported:
                    reported.add(step)
                    trial.report(value, step)
            return self.section.pruning and bool(reported) and bool(trial.should_prune())

        with self._locks[cell.name]:  # two trials can have the same values, and so the same run
            runner.run_cell(cell, should_prune)
        return ""

    def _tell(self, trial: Any, error: str) -> None:
        states, name = import_optuna().trial.TrialState, trial_name(trial.params)
        status, values = self.folder.state(name).status, self._dev_values(name)
        if status == "completed" and (value := self._kept_value(name)) is not None:
            self._optuna_study.tell(trial, value)
            logger.info("%s  dev %s %.4f: %s", name, self._metric, value, describe_values(trial.params))
        elif status == "pruned":
            self._optuna_study.tell(trial, state=states.PRUNED)
            logger.info(
                "%s  stopped after step %s: %s", name, max(values)[0] if values else 0, describe_values(trial.params)
            )
        else:
            self._optuna_study.tell(trial, state=states.FAIL)
            logger.info("%s  failed: %s", name, error or self.folder.state(name).error)

    def _dev_values(self, name: str) -> list[tuple[int, float]]:
        """Return the metric of the dev rows by step, so far."""
        log = self.folder.run(name).train_log
        lines = log.read_text(encoding="utf-8").splitlines() if log.is_file() else []
        entries = [json.loads(line) for line in lines if line.endswith("}")]  # the last line may still be written
        key = f"dev_{self._metric}"
        return [(entry["step"], entry[key]) for entry in entries if isinstance(entry.get(key), float)]

    def _kept_value(self, name: str) -> float | None:
        """Return the metric of the dev rows after the step whose weights are the adapter."""
        kept = self.folder.run(name).record.get("validation", {}).get("kept_step")
        return dict(self._dev_values(name)).get(kept)

    def _finalists(self) -> tuple[VariantSection, ...]:
        complete = [trial for trial in self._optuna_study.trials if trial.state.name == "COMPLETE"]
        best = sorted(complete, key=lambda trial: trial.value if self._metric == "nll" else -trial.value)
        distinct = list({values_digest(trial.params): trial.params for trial in reversed(best)}.values())[::-1]
        # Named after their values: with more trials, other settings may become finalists.
        return tuple(
            VariantSection(name=f"{FINALIST_PREFIX}{unique_name(params)}", overrides=params)
            for params in distinct[: self.section.finalists]
        )

    def record(self) -> dict[str, Any]:
        """Return the trials for study.json."""
        return {
            "metric": f"dev_{self._metric}",
            "trials": [
                {
                    "number": trial.number,
                    "state": _STATES.get(trial.state.name, trial.state.name.lower()),
                    "value": trial.value,
                    "values": trial.params,
                    "cell": trial_name(trial.params) if trial.params else None,
                }
                for trial in self._own_trials()
            ],
        }
