"""The runs that an averaged adapter was made of: the field `averaged` of run.json."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from toolkit.utils.formatting import join_names


@dataclass(frozen=True)
class AveragedRun:
    """A run whose adapter is part of an average.

    Args:
        name: The name of its folder.
        seed: The seed that it was trained with.
        r: The rank of its adapter.
        alpha: The alpha of its adapter.
        adapter_sha256: The digest of its adapter, see `Seal.adapter_sha256`.
        train_seconds: The time that its training took; None if it is not known.
    """

    name: str
    seed: int
    r: int
    alpha: int
    adapter_sha256: str
    train_seconds: float | None = None

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> "tuple[AveragedRun, ...]":
        """Return the runs in a run.json, none for a run that was trained."""
        runs = record.get("averaged")
        return tuple(cls(**run) for run in runs) if isinstance(runs, list) else ()

    def record(self) -> dict[str, Any]:
        """Return the entry for run.json."""
        return asdict(self)


def describe_average(runs: Sequence[AveragedRun]) -> str:
    """Return what an averaged adapter is, for a report."""
    seeds = join_names([str(run.seed) for run in runs], "and")
    return f"the average of {len(runs)} adapters, trained with the seeds {seeds}"
