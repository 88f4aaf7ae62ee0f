"""The figures of the documentation, drawn from the results in benchmarks/results. Equal results give equal files."""

import io
import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("svg")
from matplotlib.figure import Figure

from side_by_side import ENVIRONMENT

# Text is not converted to paths, and element ids do not depend on the process. Pages do not enlarge the picture, and it
# is about as wide as a phone, so text of 10 points is readable there.
_STYLE = {"svg.fonttype": "none", "svg.hashsalt": "toolkit", "font.size": 10, "axes.spines.top": False}
_STYLE["axes.spines.right"] = False
_WIDTH_INCHES = 4.0
_COLORS = {"ours, shuffled": "#7fb3d5", "ours, grouped": "#1f618d"}
PEER = "trl on unsloth"
STUDY_ACCURACY = 0.7080
"""The accuracy of Llama 3.2 1B on XNLI-fr in the study that this project started from."""


def training_speed(results: Path) -> str | None:
    """Draw the speed of shuffled and grouped trees relative to TRL on Unsloth, by model and rows per step.

    Args:
        results: The folder of the results.

    Returns:
        The figure as SVG, or None if there are no results.
    """
    ratios: dict[str, dict[str, float]] = {}
    for file in sorted(results.glob("training-*/training.json")):
        systems = json.loads(file.read_text(encoding="utf-8"))
        speeds = {system["name"]: system["against"].get(PEER) for system in systems}
        batch = json.loads((file.parent / ENVIRONMENT).read_text(encoding="utf-8"))["batch"]
        model = file.parent.name.removeprefix("training-").removesuffix(f"-{batch}")
        ratios[f"{model}, {batch}"] = {name: speeds[name] for name in _COLORS if speeds.get(name) is not None}
    ratios = {name: values for name, values in ratios.items() if values}
    if not ratios:
        return None
    names = sorted(ratios, key=lambda name: max(ratios[name].values()))

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        for offset, (system, color) in zip((-0.2, 0.2), _COLORS.items(), strict=True):
            values = [ratios[name].get(system, 0.0) for name in names]
            positions = [number + offset for number in range(len(names))]
            bars = axes.barh(positions, values, 0.38, color=color, label=system)
            axes.bar_label(bars, [f"{value:.2f}x" if value else "" for value in values], padding=3)
        axes.axvline(1, color="#888888", linewidth=1)
        axes.set_yticks(range(len(names)), names)
        axes.set_xlim(0, max(map(max, (values.values() for values in ratios.values()))) * 1.2)
        axes.set_ylabel("model, rows per step")
        axes.set_xlabel("speed relative to TRL on Unsloth")
        figure.legend(loc="outside upper center", ncols=2, reverse=True, frameon=False)

    return _svg(draw, 0.6 * len(names) + 1.2)


def predicting(results: Path) -> str | None:
    """Draw memory and speed over the rows of a prediction; see `training_speed` for argument and result."""
    file = results / "predicting" / "predicting.json"
    if not file.is_file():
        return None
    samples: list[dict[str, Any]] = json.loads(file.read_text(encoding="utf-8"))["samples"]
    # The last sample can repeat the number of rows of the one before.
    samples = [samples[0], *(after for before, after in itertools.pairwise(samples) if after["rows"] > before["rows"])]
    rows = [sample["rows"] for sample in samples]
    rates = [
        (after["rows"] - before["rows"]) / (after["seconds"] - before["seconds"])
        for before, after in itertools.pairwise(samples)
    ]

    def draw(figure: Figure) -> None:
        memory, speed = figure.subplots(2, sharex=True)
        for axes, x, y, label in (
            (memory, rows, [sample["resident_gb"] for sample in samples], "resident GB"),
            (speed, rows[1:], rates, "rows per second"),
        ):
            axes.plot(x, y, color="#1f618d")
            axes.set_ylabel(label)
            axes.set_ylim(0, max(y) * 1.2)
        speed.set_xlabel("rows predicted")
        speed.xaxis.set_major_formatter("{x:,.0f}")
        speed.locator_params(axis="x", nbins=5)

    return _svg(draw, 3.6)


def real_models(results: Path) -> str | None:
    """Draw the accuracies on XNLI-fr with their intervals, and that of the study; see `training_speed`."""
    file = results / "real" / "runs.json"
    if not file.is_file():
        return None
    means = [
        entry
        for entry in json.loads(file.read_text(encoding="utf-8"))
        if entry["seed"] == "mean" and entry["data"].startswith("xnli_fr") and entry["protocol"] == "study"
    ]
    if not means:
        return None
    means.sort(key=lambda entry: (entry["accuracy"], entry["model"]))

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        for position, entry in enumerate(means):
            axes.plot(entry["interval"], [position, position], color="#7fb3d5", linewidth=4)
            axes.plot(entry["accuracy"], position, "o", color="#1f618d")
        axes.axvline(STUDY_ACCURACY, color="#888888", linewidth=1, label="Llama 3.2 1B in the study")
        axes.set_yticks(range(len(means)), [entry["model"] for entry in means])
        axes.xaxis.set_major_formatter("{x:.0%}")
        axes.set_xlabel("accuracy on XNLI-fr with its 95% interval")
        figure.legend(loc="outside upper center", frameon=False)

    return _svg(draw, 0.28 * len(means) + 1.2, width=1.6 * _WIDTH_INCHES)  # long names


def learning_curve(results: Path) -> str | None:
    """Draw the accuracy of a study by training set size, with the law fitted to all sizes; see `training_speed`."""
    file = results / "learning-curve" / "learning_curve.json"
    if not file.is_file():
        return None
    result = json.loads(file.read_text(encoding="utf-8"))
    curve, law = result["curve"], result["curve"]["law"]
    first, last = curve["sizes"][0], 10 * curve["sizes"][-1]
    rows = [first * (last / first) ** (step / 60) for step in range(61)]

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        fitted = [1 - law["scale"] * number ** -law["exponent"] - law["irreducible"] for number in rows]
        axes.plot(rows, fitted, color="#888888", linewidth=1, label="fitted power law")
        for entry in result["sizes"]:
            axes.plot([entry["rows"]] * 2, entry["interval"], color="#7fb3d5", linewidth=4)
            axes.plot(entry["rows"], entry["accuracy"], "o", color="#1f618d")
        axes.plot(
            curve["sizes"][-1], curve["predicted_largest"], "x", color="#b03a2e", label="predicted by the smaller sizes"
        )
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter("{x:,.0f}")
        axes.yaxis.set_major_formatter("{x:.0%}")
        axes.set_xlabel("training rows")
        axes.set_ylabel("accuracy with its 95% interval")
        figure.legend(loc="outside upper center", frameon=False)

    return _svg(draw, 3.4)


def _svg(draw: Callable[[Figure], None], height: float, width: float = _WIDTH_INCHES) -> str:
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(width, height), layout="constrained")
        draw(figure)
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    # matplotlib leaves spaces at the end of lines.
    return "".join(f"{line.rstrip()}\n" for line in buffer.getvalue().splitlines())


FIGURES: dict[str, tuple[Callable[[Path], str | None], str]] = {
    "training-speed": (training_speed, "Training speed relative to TRL on Unsloth by model and rows per step"),
    "real-models": (real_models, "Accuracy on XNLI-fr with its 95% interval, by model"),
    "learning-curve": (
        learning_curve,
        "Accuracy of SmolLM2 on SICK-fr by training set size, with the fitted power law",
    ),
    "predicting": (predicting, "Resident memory and rows per second over the rows of a prediction"),
}
"""The function that draws each figure, and the figure's description."""
