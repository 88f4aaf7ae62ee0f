"""Drawings for a page: SVG whose colours come from the page's style sheet, so that they follow light and dark."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from xml.etree.ElementTree import Element, SubElement, tostring

import numpy as np
from markupsafe import Markup

from toolkit.evaluation.calibration import ReliabilityBins
from toolkit.evaluation.formats import significant

_WIDTH, _HEIGHT = 560, 330
_LEFT, _RIGHT, _TOP, _BOTTOM = 68, 8, 40, 56
_POINTS = 300
"""More points than this are no longer told apart at the width of a page."""
_LOG_FROM = 30.0
"""Largest over smallest mean loss from which a linear axis would show one flat line."""


@dataclass(frozen=True)
class Axis:
    """Maps values to places; `ticks` are values that a person would write."""

    low: float
    high: float
    start: float
    end: float
    ticks: tuple[float, ...]
    logarithmic: bool = False

    def __call__(self, value: float) -> float:
        """The coordinate of a value, in user units."""
        low, high = self.low, self.high
        if self.logarithmic:
            low, high, value = math.log10(low), math.log10(high), math.log10(max(value, low))
        return round(self.start + (value - low) / (high - low) * (self.end - self.start), 2)


def linear_axis(low: float, high: float, start: float, end: float, ticks: int = 5) -> Axis:
    """An axis from `low` to the first tick at or above `high`; steps are 1, 2 or 5 times a power of ten."""
    span = (high - low) or 1.0
    rough = span / ticks
    power = 10.0 ** math.floor(math.log10(rough))
    step = power * next(factor for factor in (1, 2, 5, 10) if factor * power >= rough * 0.999)
    count = math.ceil(span / step - 1e-9)
    return Axis(low, low + count * step, start, end, tuple(round(low + i * step, 10) for i in range(count + 1)))


def logarithmic_axis(low: float, high: float, start: float, end: float) -> Axis:
    """An axis over whole powers of ten."""
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    last = max(last, first + 1)
    every = math.ceil((last - first) / 6)
    ticks = tuple(10.0**power for power in range(first, last + 1, every))
    return Axis(10.0**first, 10.0**last, start, end, ticks, logarithmic=True)


def loss_curve(steps: Sequence[int], losses: Sequence[float]) -> Markup:
    """Training loss over optimiser steps: each step's faint, a running mean on top of it.

    Args:
        steps: ascending step numbers.
        losses: finite losses of these steps; at least two.
    """
    means = _running_mean(np.array(losses), window=max(1, len(losses) // 40))
    x = linear_axis(0, max(steps), _LEFT, _WIDTH - _RIGHT)
    positive = [mean for mean in means.tolist() if mean > 0]
    if len(positive) == len(means) and max(positive) / min(positive) > _LOG_FROM:
        y = logarithmic_axis(min(positive), max(positive), _HEIGHT - _BOTTOM, _TOP)
    else:
        y = linear_axis(0, float(max(means.max(), np.percentile(losses, 99))), _HEIGHT - _BOTTOM, _TOP)
    scale = " (log scale)" if y.logarithmic else ""
    svg = _frame(f"Training loss from {losses[0]:.3g} at step {steps[0]} to {means[-1]:.3g} (running mean) at the end")
    _axes(svg, x, y, "optimiser step", f"training loss{scale}", significant, significant)
    area = SubElement(svg, "svg", {"x": "0", "y": "0", "width": str(_WIDTH), "height": str(_HEIGHT - _BOTTOM)})
    for name, values in (("faint", np.array(losses)), ("line", means)):
        kept = _thin(np.array(steps), values)
        points = " ".join(f"{x(step)},{y(value)}" for step, value in kept)
        SubElement(area, "polyline", {"class": name, "points": points})
    return _markup(svg)


def reliability_diagram(bins: ReliabilityBins) -> Markup:
    """Accuracy over confidence, a bar for each bin that has rows, its width the bin's; below, where the rows lie."""
    strip = 42
    x = linear_axis(0, 1, _LEFT, _WIDTH - _RIGHT)
    y = linear_axis(0, 1, _HEIGHT - _BOTTOM, _TOP)
    svg = _frame("Accuracy against confidence; on the dashed diagonal the two are equal", extra=strip + 12)
    _axes(svg, x, y, "", "accuracy", _share, _share)
    most, base = int(bins.counts.max()), _HEIGHT - _BOTTOM + strip + 36
    for one in bins.filled:
        left, right = x(one.lower) + 1, x(one.upper) - 1
        bar = _bar(svg, "bar", left, right, y(one.accuracy), y(0))
        words = f"{one.rows:,} rows: confidence {one.confidence:.1%}, accuracy {one.accuracy:.1%}"
        SubElement(bar, "title").text = words
        _bar(svg, "rows", left, right, base - strip * one.rows / most, base)
        SubElement(svg, "circle", {"class": "dot", "cx": str(x(one.confidence)), "cy": str(y(one.accuracy)), "r": "3"})
    SubElement(svg, "line", {"class": "ideal", **_ends(x(0), y(0), x(1), y(1))})
    SubElement(svg, "line", {"class": "axis", **_ends(_LEFT, base, _WIDTH - _RIGHT, base)})
    _text(svg, _LEFT - 9, base - 4, "rows", "end")
    _text(svg, (_LEFT + _WIDTH - _RIGHT) / 2, base + 22, "confidence", "middle", "label")
    return _markup(svg)


def _frame(description: str, extra: int = 0) -> Element:
    box = f"0 0 {_WIDTH} {_HEIGHT + extra}"
    return Element("svg", {"viewBox": box, "role": "img", "aria-label": description})


def _axes(
    svg: Element, x: Axis, y: Axis, x_label: str, y_label: str,
    x_text: Callable[[float], str], y_text: Callable[[float], str],
) -> None:  # fmt: skip
    bottom = _HEIGHT - _BOTTOM
    for tick in y.ticks:
        SubElement(svg, "line", {"class": "grid", **_ends(_LEFT, y(tick), _WIDTH - _RIGHT, y(tick))})
        _text(svg, _LEFT - 9, y(tick) + 5, y_text(tick), "end")
    SubElement(svg, "line", {"class": "axis", **_ends(_LEFT, bottom, _WIDTH - _RIGHT, bottom)})
    for tick in x.ticks:
        SubElement(svg, "line", {"class": "axis", **_ends(x(tick), bottom, x(tick), bottom + 5)})
        _text(svg, x(tick), bottom + 21, x_text(tick), "end" if tick == x.ticks[-1] else "middle")
    _text(svg, (_LEFT + _WIDTH - _RIGHT) / 2, bottom + 48, x_label, "middle", "label")
    _text(svg, 0, 16, y_label, "start", "label")


def _thin(steps: np.ndarray, values: np.ndarray) -> list[tuple[float, float]]:
    """The curve's points; of a long one the lowest and the highest of each stretch, so that no spike is lost."""
    kept: list[int] = []
    for stretch in np.array_split(np.arange(len(values)), min(len(values), _POINTS)):
        lowest, highest = stretch[values[stretch].argmin()], stretch[values[stretch].argmax()]
        kept += sorted({int(lowest), int(highest)})
    return list(zip(steps[kept].tolist(), values[kept].tolist(), strict=True))


def _running_mean(values: np.ndarray, window: int) -> np.ndarray:
    """The mean of the `window` values on either side; fewer at the ends."""
    total = np.concatenate([[0.0], np.cumsum(values)])
    places = np.arange(len(values))
    low, high = np.maximum(places - window, 0), np.minimum(places + window + 1, len(values))
    return (total[high] - total[low]) / (high - low)


def _share(value: float) -> str:
    return f"{value:.0%}".replace("%", " %")


def _ends(x1: float, y1: float, x2: float, y2: float) -> dict[str, str]:
    return {"x1": str(x1), "y1": str(y1), "x2": str(x2), "y2": str(y2)}


def _bar(svg: Element, name: str, left: float, right: float, top: float, bottom: float) -> Element:
    size = {"width": f"{right - left:.2f}", "height": f"{max(bottom - top, 0):.2f}"}
    return SubElement(svg, "rect", {"class": name, "x": f"{left:.2f}", "y": f"{top:.2f}", **size})


def _text(svg: Element, x: float, y: float, text: str, anchor: str, name: str = "tick") -> Element:
    element = SubElement(svg, "text", {"class": name, "x": str(x), "y": str(y), "text-anchor": anchor})
    element.text = text
    return element


def _markup(svg: Element) -> Markup:
    return Markup(tostring(svg, encoding="unicode"))  # noqa: S704 - ElementTree escapes every text and attribute
