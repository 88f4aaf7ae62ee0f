"""The space of a search: its values as Optuna and as people see them."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from toolkit.errors import RecipeError
from toolkit.studies.schema import RangeSection


def trial_name(values: Mapping[str, Any]) -> str:
    """Return the name of the run with these values."""
    return f"search-{values_digest(values)}"


def values_digest(values: Mapping[str, Any]) -> str:
    """Return a short digest of values, which is the same in each process."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:8]


def unique_name(values: Mapping[str, Any]) -> str:
    """Return a readable name for values; with a digest if one is a string, because different ones can have one slug."""
    digest = f" ({values_digest(values)})" if any(isinstance(value, str) for value in values.values()) else ""
    return f"{describe_values(values, digits=6)}{digest}"


def import_optuna() -> Any:
    """Return Optuna.

    Raises:
        RecipeError: If it is not installed.
    """
    try:
        import optuna
    except ImportError as error:
        raise RecipeError(
            "search: needs Optuna, which is not installed.", hint='Install it with: pip install -e ".[search]"'
        ) from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna


def boundary_values(space: RangeSection | tuple[Any, ...]) -> tuple[Any, ...]:
    """Return the ends of a range, or all choices."""
    return (space.low, space.high) if isinstance(space, RangeSection) else space


def distribution(space: RangeSection | tuple[Any, ...]) -> Any:
    """Return Optuna's distribution for a range or for choices."""
    distributions = import_optuna().distributions
    if not isinstance(space, RangeSection):
        return distributions.CategoricalDistribution(space)
    is_integer = isinstance(space.low, int) and isinstance(space.high, int)
    kind = distributions.IntDistribution if is_integer else distributions.FloatDistribution
    return kind(space.low, space.high, log=space.log)


def describe_values(values: Mapping[str, Any], digits: int = 4) -> str:
    """Return values as text with the last parts of their keys, e.g. `r=8, learning_rate=0.0003`."""
    texts = {key: f"{value:.{digits}g}" if isinstance(value, float) else str(value) for key, value in values.items()}
    return ", ".join(f"{key.rpartition('.')[2]}={text}" for key, text in texts.items())
