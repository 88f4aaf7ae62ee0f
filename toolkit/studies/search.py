"""A search for hyperparameters: Optuna samples and prunes, and the trials are ordinary runs of the study.

Trials are judged on the dev rows of the recipe, so the evaluation rows choose nothing. The best of many trials looks
better than it is, so the finalists become rows of the table and are trained again with all seeds.
"""

import hashlib
import json
import logging
from collections.abc import Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from toolkit.errors import RecipeError
from toolkit.recipe.loading import Overrides, build_recipe, load_recipe
from toolkit.studies.cells import Cell
from toolkit.studies.runner import CellRunner
from toolkit.studies.schema import RangeSection, RowSection, SearchSection, Study
from toolkit.studies.study_folder import StudyFolder

logger = logging.getLogger(__name__)

_INTERRUPTED = "interrupted"
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
    _optuna: Any = field(default=None, init=False)

    @property
    def section(self) -> SearchSection:
        """The section `search` of the study."""
        if self.study.search is None:
            raise ValueError("the study has no search")
        return self.study.search

    def cell(self, values: Mapping[str, Any]) -> Cell:
        """Return the run of a trial. It is named after its values, so that an interrupted trial finds its run again.

        Raises:
            RecipeError: If the recipe does not accept the values.
        """
        path = Path(self.study.recipe or "")
        recipe = load_recipe(path, self.study.overrides).model_dump(mode="json")
        recipe = build_recipe(recipe, path.name, self.overrides).model_dump(mode="json")
        seed = self.study.seeds[0]
        digest = hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:8]
        changed = build_recipe(recipe, path.name, {**values, "seed": seed})
        return Cell(f"search-{digest}", changed, seed, None, ())

    def corner_cells(self) -> list[Cell]:
        """Return a cell for each end of each range and each choice, to check them before the search starts.

        Raises:
            RecipeError: If the recipe does not accept a value or has no dev rows, or Optuna is not installed.
        """
        _import_optuna()
        start = {key: _ends(space)[0] for key, space in self.section.space.items()}
        cells = {}
        for key, space in self.section.space.items():
            for value in _ends(space):
                cell = self.cell(start | {key: value})
                cells[cell.name] = cell
        for cell in cells.values():
            if not cell.recipe.data.has_dev or cell.recipe.training.eval_steps is None:
                raise RecipeError(
                    "search: the recipe has no validation, which judges the trials.",
                    hint="Set data.dev_share in the overrides of the study, e.g. to 0.1, and keep training.eval_steps.",
                )
        return list(cells.values())

    def run(self, runner: CellRunner, jobs: int) -> tuple[RowSection, ...]:
        """Run the trials that are missing, and return the finalists as rows.

        Raises:
            RecipeError: If no trial was completed.
        """
        optuna = _import_optuna()
        self._optuna = optuna.create_study(
            storage=f"sqlite:///{self.folder.path / 'search.db'}",
            study_name="search",
            load_if_exists=True,
            direction="minimize" if self._metric == "nll" else "maximize",
            pruner=optuna.pruners.MedianPruner(n_startup_trials=_STARTUP_TRIALS)
            if self.section.pruning
            else optuna.pruners.NopPruner(),
        )
        self._requeue_interrupted()
        with ThreadPoolExecutor(jobs) as executor, runner.stopped_on_error():
            running: dict[Future[None], Any] = {}
            while running or self._missing():
                while len(running) < min(jobs, self._missing()):
                    trial = self._ask()
                    running[executor.submit(self._run_trial, runner, trial)] = trial
                # In short waits, because Python handles Ctrl-C only between two waits of the main thread.
                for future in wait(running, timeout=0.5, return_when=FIRST_COMPLETED).done:
                    self._tell(running.pop(future), future)
        return self._finalists()

    @cached_property
    def _metric(self) -> str:
        return load_recipe(self.study.recipe or "", self.study.overrides).training.best_metric

    def _requeue_interrupted(self) -> None:
        """Queue the trials that a stopped study was running, so that their runs resume."""
        for trial in self._optuna.trials:
            if trial.state.name == "RUNNING":
                self._optuna.tell(trial.number, state=_import_optuna().trial.TrialState.FAIL)
                self._optuna.enqueue_trial(trial.params, user_attrs={_INTERRUPTED: trial.number})

    def _missing(self) -> int:
        """Return the number of trials that have not ended yet. One that was queued again counts once."""
        requeued = {trial.user_attrs.get(_INTERRUPTED) for trial in self._optuna.trials}
        ended = [trial for trial in self._optuna.trials if trial.state.is_finished() and trial.number not in requeued]
        return self.section.trials - len(ended)

    def _ask(self) -> Any:
        optuna = _import_optuna()
        # A sampler with a seed of its own for each trial: one that restarts would repeat its first draws.
        number = len(self._optuna.trials)
        self._optuna.sampler = optuna.samplers.TPESampler(seed=self.section.seed * 10_000 + number)
        return self._optuna.ask({key: _distribution(space) for key, space in self.section.space.items()})

    def _run_trial(self, runner: CellRunner, trial: Any) -> None:
        reported: set[int] = set()
        cell = self.cell(trial.params)

        def is_hopeless() -> bool:
            for step, value in self._dev_values(cell.name):
                if step not in reported:
                    reported.add(step)
                    trial.report(value, step)
            return self.section.pruning and bool(reported) and bool(trial.should_prune())

        runner.run_cell(cell, is_hopeless)

    def _tell(self, trial: Any, future: Future[None]) -> None:
        future.result()
        states, name = _import_optuna().trial.TrialState, self.cell(trial.params).name
        status, values = self.folder.state(name).status, self._dev_values(name)
        if status == "completed" and (value := self._kept_value(name)) is not None:
            self._optuna.tell(trial, value)
            logger.info("%s  dev %s %.4f: %s", name, self._metric, value, _describe(trial.params))
        elif status == "pruned":
            self._optuna.tell(trial, state=states.PRUNED)
            logger.info("%s  stopped after step %s: %s", name, max(values)[0] if values else 0, _describe(trial.params))
        else:
            self._optuna.tell(trial, state=states.FAIL)
            logger.info("%s  failed: %s", name, self.folder.state(name).error)

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

    def _finalists(self) -> tuple[RowSection, ...]:
        complete = [trial for trial in self._optuna.trials if trial.state.name == "COMPLETE"]
        if not complete:
            raise RecipeError(
                f"search: none of the {len(self._optuna.trials)} trials was completed.",
                hint=f"Read the logs in {self.folder.logs}.",
            )
        best = sorted(complete, key=lambda trial: trial.value if self._metric == "nll" else -trial.value)
        distinct = list({json.dumps(trial.params, sort_keys=True): trial.params for trial in reversed(best)}.values())
        return tuple(
            RowSection(name=f"finalist {number}", overrides=params)
            for number, params in enumerate(distinct[::-1][: self.section.finalists], 1)
        )

    def record(self) -> dict[str, Any]:
        """Return the trials for study.json."""
        trials = self._optuna.trials if self._optuna else []
        return {
            "metric": f"dev_{self._metric}",
            "trials": [
                {
                    "number": trial.number,
                    "state": trial.state.name.lower(),
                    "value": trial.value,
                    "values": trial.params,
                    "cell": self.cell(trial.params).name if trial.params else None,
                }
                for trial in trials
            ],
        }


def _import_optuna() -> Any:
    """Return Optuna.

    Raises:
        RecipeError: If it is not installed.
    """
    try:
        import optuna
    except ImportError as error:
        raise RecipeError(
            "search: needs Optuna, which is not installed.", hint='Install it with: pip install "toolkit[search]"'
        ) from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna


def _ends(space: RangeSection | tuple[Any, ...]) -> tuple[Any, ...]:
    return (space.low, space.high) if isinstance(space, RangeSection) else space


def _distribution(space: RangeSection | tuple[Any, ...]) -> Any:
    distributions = _import_optuna().distributions
    if not isinstance(space, RangeSection):
        return distributions.CategoricalDistribution(space)
    is_integer = isinstance(space.low, int) and isinstance(space.high, int)
    kind = distributions.IntDistribution if is_integer else distributions.FloatDistribution
    return kind(space.low, space.high, log=space.log)


def _describe(values: Mapping[str, Any]) -> str:
    texts = {key: f"{value:.4g}" if isinstance(value, float) else str(value) for key, value in values.items()}
    return ", ".join(f"{key}={text}" for key, text in texts.items())
