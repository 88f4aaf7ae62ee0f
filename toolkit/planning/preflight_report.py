"""The preflight report: rows, tokens, parameters, memory and the verdict, as attributes and as text."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

from toolkit.errors import GateError, ModelError
from toolkit.planning.device import T4, Device
from toolkit.planning.job import TrainingJob
from toolkit.planning.plan import plan_job
from toolkit.planning.preflight import Preflight, TokenStatistics
from toolkit.planning.resource_estimate import ResourceEstimate, estimate_resources, format_estimate
from toolkit.planning.suggestions import memory_usage, remedy, verdict
from toolkit.planning.validation_plan import validation_warnings


@dataclass(frozen=True)
class PreflightReport:
    """The results of the preflight checks of a recipe.

    Args:
        job: The checked recipe and its plan for this device.
        target_device: The device that the verdict is about. None for this device.
        probe: The measurements of a few training steps, a `training.probe.Probe`. None without a probe.
    """

    job: TrainingJob
    target_device: Device | None = None
    probe: Any = None

    @property
    def preflight(self) -> Preflight[Any]:
        """The checked recipe: rows, tokens, parameters, precision."""
        return self.job.preflight

    @property
    def tokens(self) -> TokenStatistics:
        """The token statistics of the training rows."""
        return self.preflight.tokens

    @property
    def trainable_parameters(self) -> int:
        """The number of parameters of the adapter."""
        return self.preflight.parameters.trainable

    @property
    def total_parameters(self) -> int:
        """The number of parameters of base model and adapter."""
        return self.preflight.parameters.total

    @cached_property
    def estimate(self) -> ResourceEstimate | None:
        """The estimate for the target device. None if the memory of the model cannot be predicted."""
        return self._assessment[0]

    @property
    def fits(self) -> bool | None:
        """True if training and scoring fit into the memory of the target device. None without an estimate."""
        return self.estimate.fits if self.estimate else None

    @property
    def verdict(self) -> str | None:
        """A sentence saying whether the recipe fits and, if not, what to change. None without an estimate."""
        return self._assessment[1]

    @property
    def export_problem(self) -> str | None:
        """The reason why the trained model cannot be exported to GGUF. None if nothing speaks against it."""
        return self.preflight.export_problem

    def check_fits(self) -> None:
        """Check that the recipe fits into the memory of the target device, as far as it can be predicted.

        Raises:
            GateError: If it does not fit.
        """
        if self.estimate and not self.estimate.fits:
            change = remedy(self.preflight, self.estimate)
            raise GateError(
                f"The recipe does not fit on {self.estimate.device.name}: {memory_usage(self.estimate)}.",
                hint=f"{change[0].upper()}{change[1:]}.",
            )

    def report(self, *, color: bool = False) -> str:
        """Return the results as text for a terminal.

        Args:
            color: Whether to mark the target tokens of the examples with color instead of brackets.
        """
        lines = [
            f"{self.preflight.report()}\n",
            f"{self.preflight.examples(color=color)}\n",
            f"batch       {self.job.plan}",
            *validation_warnings(self.job),
        ]
        if self._local_estimate is not None:
            lines.append(format_estimate(self._local_estimate, self._local_verdict))
            lines.append(f"            {verdict(self.preflight, self._estimate_for(T4))}")
            if self.target_device:
                lines.append(f"            {self.verdict}")
        else:
            lines.append(f"memory      {self._local_problem}")
        if self.probe is not None:
            lines.append(f"probe       {self.probe}")
        return "\n".join(lines)

    @property
    def _local_estimate(self) -> ResourceEstimate | None:
        return self._local_result[0]

    @property
    def _local_problem(self) -> str:
        return self._local_result[1]

    @cached_property
    def _local_result(self) -> tuple[ResourceEstimate | None, str]:
        try:
            return estimate_resources(self.job), ""
        except ModelError as error:
            return None, str(error)

    @cached_property
    def _local_verdict(self) -> str:
        return verdict(self.preflight, self._local_estimate) if self._local_estimate else ""

    @cached_property
    def _assessment(self) -> tuple[ResourceEstimate | None, str | None]:
        if self._local_estimate is None:
            return None, None
        if self.target_device is None:
            return self._local_estimate, self._local_verdict
        estimate = self._estimate_for(self.target_device)
        return estimate, verdict(self.preflight, estimate)

    def _estimate_for(self, device: Device) -> ResourceEstimate:
        return estimate_resources(plan_job(self.preflight, device))
