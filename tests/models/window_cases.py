"""Stand-ins of every decoder family, with and without sliding windows, for the tests of prefix trees."""

from pathlib import Path
from typing import Any

import pytest

from tests.models.stand_ins import SHAPES, write_stand_in

WINDOW = 12
"""A sliding window that is shorter than the rows of all tests."""
_QWEN_WINDOW = {"use_sliding_window": True, "sliding_window": WINDOW, "max_window_layers": 1}
WINDOWED: dict[str, tuple[str, dict[str, Any]]] = {
    "mistral-window": ("mistral", {"sliding_window": WINDOW}),
    "qwen2.5-window": ("qwen2.5", _QWEN_WINDOW),
    "qwen3-window": ("qwen3", _QWEN_WINDOW),
    "smollm3-window": ("smollm3", {"use_sliding_window": True, "sliding_window": WINDOW}),
    "gemma3-window": ("gemma3", {"sliding_window": WINDOW}),
    "all-layers-window": ("gemma3", {"sliding_window": WINDOW, "layer_types": ["sliding_attention"] * 6}),
}
"""A shape of `tests.models.stand_ins` and what differs from it, by the name of the case."""
CASES: dict[str, tuple[str, dict[str, Any]]] = {**{shape: (shape, {}) for shape in SHAPES}, **WINDOWED}


class StandIns:
    """Model folders of the cases, each written when it is first needed."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def __call__(self, case: str) -> Path:
        """Return the folder of a case."""
        shape, overrides = CASES[case]
        folder = self._folder / case
        return folder if folder.exists() else write_stand_in(shape, folder, **overrides)


def parametrize_cases(cases: dict[str, Any]) -> Any:
    """Return a decorator that runs a test with the name of each case as `case`."""
    return pytest.mark.parametrize("case", list(cases))
