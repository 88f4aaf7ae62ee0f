"""Charts of a study: accuracies with their intervals, and learning curves."""

from collections.abc import Mapping, Sequence
from typing import Any
from xml.etree.ElementTree import SubElement

from markupsafe import Markup

from toolkit.reporting import svg
from toolkit.reporting.formats import count, percent, shorten

_NAME_WIDTH, _ROW_HEIGHT, _MARGIN = 270, 26, 12
_MAX_NAME = 26
_CURVE_POINTS = 60


def accuracy_chart(entries: Sequence[Mapping[str, Any]]) -> Markup:
    """Draw the accuracy of each entry with its 95% interval, one below the other.

    Args:
        entries: Results of one evaluation, see `results.summarize`.
    """
    plot_bottom = _MARGIN + _ROW_HEIGHT * len(entries)
    low, high = min(entry["interval"][0] for entry in entries), max(entry["interval"][1] for entry in entries)
    x = svg.linear_axis(int(10 * low) / 10, max(high, low + 0.1), _NAME_WIDTH, svg.WIDTH - 30, ticks=4)
    picture = svg.frame("Accuracy with 95% interval", extra_height=plot_bottom + 50 - svg.HEIGHT)
    for tick in x.ticks:
        SubElement(picture, "line", {"class": "grid", **svg.endpoints(x(tick), _MARGIN, x(tick), plot_bottom)})
        svg.text_at(picture, x(tick), plot_bottom + 18, svg.format_percent(tick), "middle")
    for number, entry in enumerate(entries):
        y, (start, end) = _MARGIN + _ROW_HEIGHT * (number + 0.5), entry["interval"]
        name = entry_name(entry)
        svg.text_at(
            picture, _NAME_WIDTH - 12, y + 5, name if len(name) <= _MAX_NAME else f"{name[: _MAX_NAME - 1]}…", "end"
        )
        SubElement(picture, "line", {"class": "line", **svg.endpoints(x(start), y, x(end), y)})
        dot = SubElement(picture, "circle", {"class": "dot", "cx": str(x(entry["accuracy"])), "cy": str(y), "r": "4"})
        SubElement(dot, "title").text = f"{name}: {percent(entry['accuracy'])} [{percent(start)}, {percent(end)}]"
    svg.text_at(picture, (_NAME_WIDTH + svg.WIDTH) / 2, plot_bottom + 42, "accuracy", "middle", "label")
    return svg.markup(picture)


def entry_name(entry: Mapping[str, Any]) -> str:
    """Return the name of a result: its variant, with the number of training rows (n) if the study sets it."""
    name, rows = shorten(entry["variant"]), entry["trained_rows"]
    return name if entry["train_size"] is None or rows is None else f"{name}, n = {count(round(rows))}"


def learning_curve_chart(curve: Mapping[str, Any]) -> Markup:
    """Draw the accuracy over the number of training rows (log scale), and the fitted power law up to tenfold data.

    Args:
        curve: A curve, see `results.fit_learning_curves`.
    """
    law, sizes, accuracies = curve["law"], curve["sizes"], curve["accuracies"]

    def predict(rows: float) -> float:
        return float(1 - law["scale"] * rows ** -law["exponent"] - law["irreducible"])

    first, last = sizes[0], 10 * sizes[-1]
    xs = [first * (last / first) ** (i / _CURVE_POINTS) for i in range(_CURVE_POINTS + 1)]
    x = svg.logarithmic_axis(first, last, svg.LEFT, svg.WIDTH - svg.RIGHT)
    y = svg.data_axis([*accuracies, *map(predict, xs)])
    picture = svg.frame(f"Accuracy from {percent(accuracies[0])} with {count(round(first))} training rows to "
                        f"{percent(accuracies[-1])} with {count(round(sizes[-1]))}")  # fmt: skip
    svg.axes(
        picture, x, y, "training rows (log scale)", "accuracy", lambda tick: count(round(tick)), svg.format_percent
    )
    points = " ".join(f"{x(value)},{y(predict(value))}" for value in xs)
    SubElement(picture, "polyline", {"class": "ideal", "points": points, "fill": "none"})
    for size, accuracy in zip(sizes, accuracies, strict=True):
        dot = SubElement(picture, "circle", {"class": "dot", "cx": str(x(size)), "cy": str(y(accuracy)), "r": "4"})
        SubElement(dot, "title").text = f"{count(round(size))} rows: {percent(accuracy)}"
    return svg.markup(picture)
