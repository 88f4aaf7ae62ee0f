"""Charts of the report: SVG whose colors come from the page's style sheet, so that they follow light and dark mode."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from xml.etree.ElementTree import Element, SubElement, tostring

import numpy as np
from markupsafe import Markup

from toolkit.evaluation.calibration import ReliabilityBins
from toolkit.reporting.formats import DEV_METRIC_NAMES, significant

# In SVG user units: the style sheet scales the whole picture to the width of the page.
_WIDTH, _HEIGHT = 560, 330
_LEFT, _RIGHT, _TOP, _BOTTOM = 68, 8, 40, 56  # margins around the plot area
_MAX_SEGMENTS = 300
"""Number of segments that a long curve is reduced to; finer detail is invisible at the width of a page."""
_LOG_SCALE_RATIO = 30.0
"""Ratio of largest to smallest mean loss above which a linear axis would show little but a flat line."""

_MAX_DOTS = 60
"""Number of validations above which the dots on their curve would touch."""


@dataclass(frozen=True)
class Axis:
    """A mapping from values to coordinates; the ticks are round numbers."""

    low: float
    high: float
    start: float
    end: float
    ticks: tuple[float, ...]
    logarithmic: bool = False

    def __call__(self, value: float) -> float:
        """Return the coordinate of a value, in user units."""
        low, high = self.low, self.high
        if self.logarithmic:
            low, high, value = math.log10(low), math.log10(high), math.log10(max(value, low))
        return round(self.start + (value - low) / (high - low) * (self.end - self.start), 2)


def linear_axis(low: float, high: float, start: float, end: float, ticks: int = 5) -> Axis:
    """Return an axis from `low` to the first tick at or above `high`; steps are 1, 2 or 5 times a power of ten."""
    span = (high - low) or 1.0
    rough_step = span / ticks
    magnitude = 10.0 ** math.floor(math.log10(rough_step))
    # Because of the tolerances, rounding errors do not add a tick when the range divides evenly.
    step = magnitude * next(factor for factor in (1, 2, 5, 10) if factor * magnitude >= rough_step * 0.999)
    step_count = math.ceil(span / step - 1e-9)
    return Axis(
        low, low + step_count * step, start, end, tuple(round(low + i * step, 10) for i in range(step_count + 1))
    )


def _data_axis(values: Sequence[float]) -> Axis:
    """Return a vertical axis that need not begin at zero, for values whose differences matter."""
    if min(values) == max(values):
        return linear_axis(0, values[0], _HEIGHT - _BOTTOM, _TOP)
    axis = linear_axis(min(values), max(values), _HEIGHT - _BOTTOM, _TOP)
    for _ in range(3):  # a lower first tick can need a larger step, whose multiples are other numbers
        step = axis.ticks[1] - axis.ticks[0]
        low = round(math.floor(min(values) / step + 1e-9) * step, 10)
        axis = linear_axis(low, max(values), _HEIGHT - _BOTTOM, _TOP)
    return axis


def logarithmic_axis(low: float, high: float, start: float, end: float) -> Axis:
    """Return an axis that spans whole powers of ten, with at most seven ticks."""
    first_power, last_power = math.floor(math.log10(low)), math.ceil(math.log10(high))
    last_power = max(last_power, first_power + 1)
    stride = math.ceil((last_power - first_power) / 6)
    ticks = tuple(10.0**power for power in range(first_power, last_power + 1, stride))
    return Axis(10.0**first_power, 10.0**last_power, start, end, ticks, logarithmic=True)


def loss_curve(steps: Sequence[int], losses: Sequence[float]) -> Markup:
    """Draw the training loss over the optimizer steps: a faint line of all losses, their running mean on top.

    Args:
        steps: Step numbers in ascending order.
        losses: The finite losses of these steps, at least two.
    """
    means = _running_mean(np.array(losses), window=max(1, len(losses) // 40))
    x = linear_axis(0, max(steps), _LEFT, _WIDTH - _RIGHT)
    positive = [mean for mean in means.tolist() if mean > 0]
    if len(positive) == len(means) and max(positive) / min(positive) > _LOG_SCALE_RATIO:
        y = logarithmic_axis(min(positive), max(positive), _HEIGHT - _BOTTOM, _TOP)
    else:
        # The 99th percentile rather than the maximum: one spike must not flatten the rest of the curve.
        y = linear_axis(0, float(max(means.max(), np.percentile(losses, 99))), _HEIGHT - _BOTTOM, _TOP)
    scale_note = " (log scale)" if y.logarithmic else ""
    svg = _frame(f"Training loss from {losses[0]:.3g} at step {steps[0]} to {means[-1]:.3g} (running mean) at the end")
    _axes(svg, x, y, "optimizer step", f"training loss{scale_note}", significant, significant)
    # A nested <svg> clips at its edges, so that losses outside the axis do not cover the labels below it.
    plot_area = SubElement(svg, "svg", {"x": "0", "y": "0", "width": str(_WIDTH), "height": str(_HEIGHT - _BOTTOM)})
    for name, values in (("faint", np.array(losses)), ("line", means)):
        curve = _downsample(np.array(steps), values)
        points = " ".join(f"{x(step)},{y(value)}" for step, value in curve)
        SubElement(plot_area, "polyline", {"class": name, "points": points})
    return _markup(svg)


def dev_curve(
    steps: Sequence[int], values: Sequence[float], metric: str, last_step: int, kept_step: int | None
) -> Markup:
    """Draw a metric of the dev rows over the optimizer steps, with a ring around the step whose weights are kept.

    Args:
        steps: The validated steps in ascending order, at least one.
        values: The finite values of the metric after these steps.
        metric: A key of DEV_METRIC_NAMES.
        last_step: The last optimizer step, so that the axis is that of the loss.
        kept_step: The step whose weights are the adapter; None if training has not ended.
    """
    name = DEV_METRIC_NAMES[metric]
    text = _format_percent if metric == "accuracy" else significant
    x, y = linear_axis(0, last_step, _LEFT, _WIDTH - _RIGHT), _data_axis(values)
    first, last = (f"{text(values[i])} after step {steps[i]:,}" for i in (0, -1))
    svg = _frame(f"{name} of the dev rows: {f'from {first} to {last}' if len(steps) > 1 else last}")
    _axes(svg, x, y, "optimizer step", f"{name} of the dev rows", significant, text)
    points = _downsample(np.array(steps), np.array(values))
    SubElement(
        svg, "polyline", {"class": "line", "points": " ".join(f"{x(step)},{y(value)}" for step, value in points)}
    )
    for step, value in zip(steps, values, strict=True):
        center = {"cx": str(x(step)), "cy": str(y(value))}
        if len(steps) <= _MAX_DOTS:
            dot = SubElement(svg, "circle", {"class": "dot", **center, "r": "3.5"})
            SubElement(dot, "title").text = f"step {step:,}: {text(value)}"
        if step == kept_step:
            SubElement(svg, "circle", {"class": "ring", **center, "r": "6.5"})
    return _markup(svg)


def reliability_diagram(bins: ReliabilityBins) -> Markup:
    """Draw accuracy by confidence, one bar for each non-empty bin; a strip below shows how many rows each bin has."""
    strip_height = 42
    x = linear_axis(0, 1, _LEFT, _WIDTH - _RIGHT)
    y = linear_axis(0, 1, _HEIGHT - _BOTTOM, _TOP)
    svg = _frame("Accuracy by confidence; the dashed diagonal is perfect calibration", extra_height=strip_height + 12)
    _axes(svg, x, y, "", "accuracy", _format_percent, _format_percent)
    max_count, baseline = int(bins.counts.max()), _HEIGHT - _BOTTOM + strip_height + 36
    for bin_ in bins.filled:
        left, right = x(bin_.lower) + 1, x(bin_.upper) - 1
        bar = _bar(svg, "bar", left, right, y(bin_.accuracy), y(0))
        tooltip = f"{bin_.rows:,} rows: confidence {bin_.confidence:.1%}, accuracy {bin_.accuracy:.1%}"
        SubElement(bar, "title").text = tooltip
        _bar(svg, "rows", left, right, baseline - strip_height * bin_.rows / max_count, baseline)
        center = {"cx": str(x(bin_.confidence)), "cy": str(y(bin_.accuracy))}
        SubElement(svg, "circle", {"class": "dot", **center, "r": "3"})
    SubElement(svg, "line", {"class": "ideal", **_endpoints(x(0), y(0), x(1), y(1))})
    SubElement(svg, "line", {"class": "axis", **_endpoints(_LEFT, baseline, _WIDTH - _RIGHT, baseline)})
    _text(svg, _LEFT - 9, baseline - 4, "rows", "end")
    _text(svg, (_LEFT + _WIDTH - _RIGHT) / 2, baseline + 22, "confidence", "middle", "label")
    return _markup(svg)


def _frame(description: str, extra_height: int = 0) -> Element:
    view_box = f"0 0 {_WIDTH} {_HEIGHT + extra_height}"
    return Element("svg", {"viewBox": view_box, "role": "img", "aria-label": description})


def _axes(
    svg: Element, x: Axis, y: Axis, x_label: str, y_label: str,
    x_text: Callable[[float], str], y_text: Callable[[float], str],
) -> None:  # fmt: skip
    bottom = _HEIGHT - _BOTTOM
    for tick in y.ticks:
        SubElement(svg, "line", {"class": "grid", **_endpoints(_LEFT, y(tick), _WIDTH - _RIGHT, y(tick))})
        _text(svg, _LEFT - 9, y(tick) + 5, y_text(tick), "end")
    SubElement(svg, "line", {"class": "axis", **_endpoints(_LEFT, bottom, _WIDTH - _RIGHT, bottom)})
    for tick in x.ticks:
        SubElement(svg, "line", {"class": "axis", **_endpoints(x(tick), bottom, x(tick), bottom + 5)})
        # Centered, the last label would stick out of the picture.
        _text(svg, x(tick), bottom + 21, x_text(tick), "end" if tick == x.ticks[-1] else "middle")
    _text(svg, (_LEFT + _WIDTH - _RIGHT) / 2, bottom + 48, x_label, "middle", "label")
    _text(svg, 0, 16, y_label, "start", "label")


def _downsample(steps: np.ndarray, values: np.ndarray) -> list[tuple[float, float]]:
    """Return the points of a curve, reduced to the minimum and maximum of each segment, so that no spike is lost."""
    kept_indices: list[int] = []
    for segment in np.array_split(np.arange(len(values)), min(len(values), _MAX_SEGMENTS)):
        lowest, highest = segment[values[segment].argmin()], segment[values[segment].argmax()]
        kept_indices += sorted({int(lowest), int(highest)})
    return list(zip(steps[kept_indices].tolist(), values[kept_indices].tolist(), strict=True))


def _running_mean(values: np.ndarray, window: int) -> np.ndarray:
    """Return the mean of each value and its `window` neighbors on either side, fewer at the ends."""
    # With cumulative sums, the mean of a window of any length takes one subtraction.
    cumulative = np.concatenate([[0.0], np.cumsum(values)])
    positions = np.arange(len(values))
    low, high = np.maximum(positions - window, 0), np.minimum(positions + window + 1, len(values))
    return (cumulative[high] - cumulative[low]) / (high - low)


def _format_percent(value: float) -> str:
    return f"{100 * value:.4g}%"


def _endpoints(x1: float, y1: float, x2: float, y2: float) -> dict[str, str]:
    return {"x1": str(x1), "y1": str(y1), "x2": str(x2), "y2": str(y2)}


def _bar(svg: Element, css_class: str, left: float, right: float, top: float, bottom: float) -> Element:
    dimensions = {"width": f"{right - left:.2f}", "height": f"{max(bottom - top, 0):.2f}"}
    return SubElement(svg, "rect", {"class": css_class, "x": f"{left:.2f}", "y": f"{top:.2f}", **dimensions})


def _text(svg: Element, x: float, y: float, text: str, anchor: str, css_class: str = "tick") -> Element:
    element = SubElement(svg, "text", {"class": css_class, "x": str(x), "y": str(y), "text-anchor": anchor})
    element.text = text
    return element


def _markup(svg: Element) -> Markup:
    return Markup(tostring(svg, encoding="unicode"))  # noqa: S704 - ElementTree escapes every text and attribute
