"""Charts of the report: SVG whose colors come from the page's style sheet, so that they follow light and dark mode."""

from collections.abc import Sequence
from xml.etree.ElementTree import SubElement

import numpy as np
from markupsafe import Markup

from toolkit.evaluation.calibration import ReliabilityBins
from toolkit.reporting.formats import DEV_METRIC_NAMES, significant
from toolkit.reporting.svg import (
    BOTTOM,
    HEIGHT,
    LEFT,
    RIGHT,
    TOP,
    WIDTH,
    axes,
    data_axis,
    endpoints,
    format_percent,
    frame,
    linear_axis,
    logarithmic_axis,
    markup,
    rectangle,
    text_at,
)

_MAX_SEGMENTS = 300
"""Number of segments that a long curve is reduced to; finer detail is invisible at the width of a page."""
_LOG_SCALE_RATIO = 30.0
"""Ratio of largest to smallest mean loss above which a linear axis would show little but a flat line."""

_MAX_DOTS = 60
"""Number of validations above which the dots on their curve would touch."""


def loss_curve(steps: Sequence[int], losses: Sequence[float]) -> Markup:
    """Draw the training loss over the optimizer steps: a faint line of all losses, their running mean on top.

    Args:
        steps: Step numbers in ascending order.
        losses: The finite losses of these steps, at least two.
    """
    means = _running_mean(np.array(losses), window=max(1, len(losses) // 40))
    x = linear_axis(0, max(steps), LEFT, WIDTH - RIGHT)
    positive = [mean for mean in means.tolist() if mean > 0]
    if len(positive) == len(means) and max(positive) / min(positive) > _LOG_SCALE_RATIO:
        y = logarithmic_axis(min(positive), max(positive), HEIGHT - BOTTOM, TOP)
    else:
        # The 99th percentile rather than the maximum: one spike must not flatten the rest of the curve.
        y = linear_axis(0, float(max(means.max(), np.percentile(losses, 99))), HEIGHT - BOTTOM, TOP)
    scale_note = " (log scale)" if y.logarithmic else ""
    svg = frame(f"Training loss from {losses[0]:.3g} at step {steps[0]} to {means[-1]:.3g} (running mean) at the end")
    axes(svg, x, y, "optimizer step", f"training loss{scale_note}", significant, significant)
    # A nested <svg> clips at its edges, so that losses outside the axis do not cover the labels below it.
    plot_area = SubElement(svg, "svg", {"x": "0", "y": "0", "width": str(WIDTH), "height": str(HEIGHT - BOTTOM)})
    for name, values in (("faint", np.array(losses)), ("line", means)):
        curve = _downsample(np.array(steps), values)
        points = " ".join(f"{x(step)},{y(value)}" for step, value in curve)
        SubElement(plot_area, "polyline", {"class": name, "points": points})
    return markup(svg)


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
    text = format_percent if metric == "accuracy" else significant
    x, y = linear_axis(0, last_step, LEFT, WIDTH - RIGHT), data_axis(values)
    first, last = (f"{text(values[i])} after step {steps[i]:,}" for i in (0, -1))
    svg = frame(f"{name} of the dev rows: {f'from {first} to {last}' if len(steps) > 1 else last}")
    axes(svg, x, y, "optimizer step", f"{name} of the dev rows", significant, text)
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
    return markup(svg)


def reliability_diagram(bins: ReliabilityBins) -> Markup:
    """Draw accuracy by confidence, one bar for each non-empty bin; a strip below shows how many rows each bin has."""
    strip_height = 42
    x = linear_axis(0, 1, LEFT, WIDTH - RIGHT)
    y = linear_axis(0, 1, HEIGHT - BOTTOM, TOP)
    svg = frame("Accuracy by confidence; the dashed diagonal is perfect calibration", extra_height=strip_height + 12)
    axes(svg, x, y, "", "accuracy", format_percent, format_percent)
    max_count, baseline = int(bins.counts.max()), HEIGHT - BOTTOM + strip_height + 36
    for bin_ in bins.filled:
        left, right = x(bin_.lower) + 1, x(bin_.upper) - 1
        bar = rectangle(svg, "bar", left, right, y(bin_.accuracy), y(0))
        tooltip = f"{bin_.rows:,} rows: confidence {bin_.confidence:.1%}, accuracy {bin_.accuracy:.1%}"
        SubElement(bar, "title").text = tooltip
        rectangle(svg, "rows", left, right, baseline - strip_height * bin_.rows / max_count, baseline)
        center = {"cx": str(x(bin_.confidence)), "cy": str(y(bin_.accuracy))}
        SubElement(svg, "circle", {"class": "dot", **center, "r": "3"})
    SubElement(svg, "line", {"class": "ideal", **endpoints(x(0), y(0), x(1), y(1))})
    SubElement(svg, "line", {"class": "axis", **endpoints(LEFT, baseline, WIDTH - RIGHT, baseline)})
    text_at(svg, LEFT - 9, baseline - 4, "rows", "end")
    text_at(svg, (LEFT + WIDTH - RIGHT) / 2, baseline + 22, "confidence", "middle", "label")
    return markup(svg)


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
