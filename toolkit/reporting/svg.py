"""Elements of charts: axes, bars and texts as SVG.

Colors come from the page's style sheet, so that they follow light and dark mode.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from xml.etree.ElementTree import Element, SubElement, tostring

from markupsafe import Markup

# In SVG user units: the style sheet scales the whole picture to the width of the page.
WIDTH, HEIGHT = 560, 330
LEFT, RIGHT, TOP, BOTTOM = 68, 8, 40, 56  # margins around the plot area


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


def data_axis(values: Sequence[float]) -> Axis:
    """Return a vertical axis that need not begin at zero, for values whose differences matter."""
    if min(values) == max(values):
        return linear_axis(0, values[0], HEIGHT - BOTTOM, TOP)
    axis = linear_axis(min(values), max(values), HEIGHT - BOTTOM, TOP)
    for _ in range(3):  # a lower first tick can need a larger step, whose multiples are other numbers
        step = axis.ticks[1] - axis.ticks[0]
        low = round(math.floor(min(values) / step + 1e-9) * step, 10)
        axis = linear_axis(low, max(values), HEIGHT - BOTTOM, TOP)
    return axis


def logarithmic_axis(low: float, high: float, start: float, end: float) -> Axis:
    """Return an axis that spans whole powers of ten, with at most seven ticks."""
    first_power, last_power = math.floor(math.log10(low)), math.ceil(math.log10(high))
    last_power = max(last_power, first_power + 1)
    stride = math.ceil((last_power - first_power) / 6)
    ticks = tuple(10.0**power for power in range(first_power, last_power + 1, stride))
    return Axis(10.0**first_power, 10.0**last_power, start, end, ticks, logarithmic=True)


def frame(description: str, extra_height: int = 0) -> Element:
    """Return an empty picture; the description is for screen readers."""
    view_box = f"0 0 {WIDTH} {HEIGHT + extra_height}"
    return Element("svg", {"viewBox": view_box, "role": "img", "aria-label": description})


def axes(
    svg: Element, x: Axis, y: Axis, x_label: str, y_label: str,
    x_text: Callable[[float], str], y_text: Callable[[float], str],
) -> None:  # fmt: skip
    """Draw both axes with their ticks and labels; `x_text` and `y_text` format a tick."""
    bottom = HEIGHT - BOTTOM
    for tick in y.ticks:
        SubElement(svg, "line", {"class": "grid", **endpoints(LEFT, y(tick), WIDTH - RIGHT, y(tick))})
        text_at(svg, LEFT - 9, y(tick) + 5, y_text(tick), "end")
    SubElement(svg, "line", {"class": "axis", **endpoints(LEFT, bottom, WIDTH - RIGHT, bottom)})
    for tick in x.ticks:
        SubElement(svg, "line", {"class": "axis", **endpoints(x(tick), bottom, x(tick), bottom + 5)})
        # Centered, the last label would stick out of the picture.
        text_at(svg, x(tick), bottom + 21, x_text(tick), "end" if tick == x.ticks[-1] else "middle")
    text_at(svg, (LEFT + WIDTH - RIGHT) / 2, bottom + 48, x_label, "middle", "label")
    text_at(svg, 0, 16, y_label, "start", "label")


def format_percent(value: float) -> str:
    """Format a share as a percentage, with as few digits as a tick needs."""
    return f"{100 * value:.4g}%"


def endpoints(x1: float, y1: float, x2: float, y2: float) -> dict[str, str]:
    """Return the attributes of a line from (x1, y1) to (x2, y2)."""
    return {"x1": str(x1), "y1": str(y1), "x2": str(x2), "y2": str(y2)}


def rectangle(svg: Element, css_class: str, left: float, right: float, top: float, bottom: float) -> Element:
    """Draw a rectangle."""
    dimensions = {"width": f"{right - left:.2f}", "height": f"{max(bottom - top, 0):.2f}"}
    return SubElement(svg, "rect", {"class": css_class, "x": f"{left:.2f}", "y": f"{top:.2f}", **dimensions})


def text_at(svg: Element, x: float, y: float, text: str, anchor: str, css_class: str = "tick") -> Element:
    """Draw a text; the anchor is `start`, `middle` or `end`."""
    element = SubElement(svg, "text", {"class": css_class, "x": str(x), "y": str(y), "text-anchor": anchor})
    element.text = text
    return element


def markup(svg: Element) -> Markup:
    """Return the picture as HTML."""
    return Markup(tostring(svg, encoding="unicode"))  # noqa: S704 - ElementTree escapes every text and attribute
