"""The parameters of an evaluation, with the checks that need no slow imports."""

from dataclasses import dataclass
from typing import Literal, get_args

from toolkit.data.few_shot import check_shots
from toolkit.data.sources import check_files_exist, parse_data
from toolkit.errors import RecipeError, RunError
from toolkit.recipe.model_kind import require_decoder
from toolkit.runs.model_ref import ModelRef
from toolkit.runs.run_paths import check_no_links, check_writable
from toolkit.runs.trained_run import TrainedRun

Mode = Literal["constrained", "free"]


@dataclass(frozen=True)
class EvaluationRequest:
    """The parameters of an evaluation.

    Args:
        model: The model of the run to evaluate.
        data: Rows to use instead of the recipe's evaluation rows, see `parse_data`.
        limit: Score only the first N rows, as a quick look. No temperature for predictions is fitted.
        mode: "constrained" decodes only labels and fits a temperature on the calibration set. "free" generates freely.
        shots: The number of training rows to show as few-shot examples in each prompt, for the base model only.
    """

    model: ModelRef = ModelRef("adapter")  # noqa: RUF009 - frozen
    data: str | None = None
    limit: int | None = None
    mode: Mode = "constrained"
    shots: int = 0

    def check(self, run: TrainedRun) -> None:
        """Check all that can be checked against the run's folder before packages are imported, which takes seconds.

        Raises:
            ToolkitError: If a value is invalid, a model or file is missing, or the model does not support the request.
        """
        self._check_values()
        kind = run.recipe.model.kind
        self.model.check(run.folder, kind)
        if self.mode == "free" or self.shots:
            require_decoder(kind, 'mode="free"' if self.mode == "free" else f"shots={self.shots}")
        check_shots(self.model.name, self.shots)
        check_files_exist(parse_data(self.data) if self.data is not None else run.recipe.data.eval)
        if self.data is None:
            check_shared_rows(run)
        # The adapter's folder gets the model card.
        check_no_links([run.folder.eval, run.folder.adapter])
        check_writable(run.folder.eval)

    def _check_values(self) -> None:
        """Check the values' types and ranges, which the command line ensures and a Python caller does not."""
        if self.mode not in get_args(Mode):
            raise RunError(
                f"mode is {self.mode!r}, which is not a decoding mode.", hint='Use mode="constrained" or mode="free".'
            )
        if self.limit is not None and not _is_count(self.limit, at_least=1):
            raise RunError(
                f"limit is {self.limit!r}, but must be an integer of at least 1.", hint="Leave it out to use all rows."
            )
        if not _is_count(self.shots, at_least=0):
            raise RunError(
                f"shots is {self.shots!r}, but must be an integer of at least 0.", hint="Leave it out for none."
            )


def check_shared_rows(run: TrainedRun) -> None:
    """Check that the evaluation rows, if they are a share of data.train, are still those that were not trained on.

    Raises:
        RecipeError: If an override changes which rows they are.
    """
    if not run.saved_recipe.data.shares_rows or not run.recipe.data.shares_rows:
        return
    decisive = (
        "seed",
        "data.split_seed",
        "data.eval_share",
        "data.train.",
        "data.columns",
        "data.label_map",
        "data.unlabeled",
    )
    if changed := [key for key in run.overridden if key.startswith(decisive)]:
        raise RecipeError(
            f"overrides: {changed[0]} can change which rows data.eval_share holds out, so rows that the run was "
            "trained on would be evaluated.",
            hint="Leave it out, or evaluate other rows with data=FILE.",
        )


def _is_count(value: object, *, at_least: int) -> bool:
    # bool is a subclass of int, so limit=True would pass as 1.
    return isinstance(value, int) and not isinstance(value, bool) and value >= at_least
