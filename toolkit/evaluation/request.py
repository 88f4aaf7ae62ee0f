"""What an evaluation is asked to measure; a look at it costs no imports that take seconds."""

from dataclasses import dataclass
from typing import Literal, get_args

from toolkit.data.few_shot import check_shots
from toolkit.data.sources import check_files_exist, parse_data
from toolkit.errors import RunError
from toolkit.recipe.model_kind import require_decoder
from toolkit.runs.model_ref import ModelRef
from toolkit.runs.run_paths import check_writable
from toolkit.runs.trained_run import TrainedRun

Mode = Literal["constrained", "free"]


@dataclass(frozen=True)
class EvaluationRequest:
    """What to measure.

    Args:
        model: which of the run's models.
        data: other rows than the recipe's evaluation rows, see `parse_data`.
        limit: the first N rows only; a look, for which no temperature is fitted.
        mode: constrained to the labels, where a temperature is fitted on the rows that training held back; or free.
        shots: training rows that stand solved before each question, see `draw_shots`; for the base model alone.
    """

    model: ModelRef = ModelRef("adapter")  # noqa: RUF009 - frozen
    data: str | None = None
    limit: int | None = None
    mode: Mode = "constrained"
    shots: int = 0

    def check(self, run: TrainedRun) -> None:
        """Refuse what the run alone tells cannot be measured, before packages that take seconds to import.

        Raises:
            ToolkitError: there is no such model or file, or the model cannot be asked in this way.
        """
        self._check_values()
        kind = run.recipe.model.kind
        self.model.check(run.folder, kind)
        if self.mode == "free" or self.shots:
            require_decoder(kind, 'mode="free"' if self.mode == "free" else f"shots={self.shots}")
        check_shots(self.model.name, self.shots)
        check_files_exist(parse_data(self.data) if self.data else run.recipe.data.eval)
        check_writable(run.folder.eval)

    def _check_values(self) -> None:
        """Refuse values that the command line cannot give, and Python can."""
        if self.mode not in get_args(Mode):
            raise RunError(f"mode is {self.mode!r}, which is neither constrained nor free.", hint="Choose one of them.")
        if self.limit is not None and not _is_count(self.limit, at_least=1):
            raise RunError(
                f"limit is {self.limit!r}, which is not a number of rows from 1 on.", hint="Leave it out for all."
            )
        if not _is_count(self.shots, at_least=0):
            raise RunError(f"shots is {self.shots!r}, which is not a number from 0 on.", hint="Leave it out for none.")


def _is_count(value: object, *, at_least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= at_least
