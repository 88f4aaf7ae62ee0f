"""Plots of confusion matrices and reliability diagrams, as PNG files."""

from collections.abc import Mapping
from pathlib import Path

import matplotlib
import numpy as np

matplotlib.use("Agg")  # the backend that needs no display

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from toolkit.evaluation.calibration import ReliabilityBins
from toolkit.evaluation.confusion import ConfusionTable

_MAX_NAME_LENGTH = 40
# Labels and file names can contain dollar signs, so texts are drawn with parse_math=False. Otherwise matplotlib takes
# what is between two of them for a formula, and fails if it is not one.


def plot_confusion_matrix(table: ConfusionTable, title: str, path: Path) -> None:
    """Plot a confusion matrix with counts and percentages of each gold label.

    Args:
        table: The counts. Memory and the size of the picture grow with the square of its labels.
        title: The title of the plot.
        path: The PNG file to write.
    """
    counts, shares = table.counts, table.shares
    labels, columns = ([_shorten(name) for name in names] for names in (table.labels, table.columns))
    size = 2.2 + 1.1 * len(labels)
    figure = Figure(figsize=(size + 0.8 + 1.1 * (len(columns) - len(labels)), size), layout="constrained")
    axes = figure.add_subplot()
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    for row, column in np.ndindex(*counts.shape):
        # White text on the dark cells, so that it stays readable.
        text_color = "white" if shares[row, column] > 0.5 else "black"
        text = f"{counts[row, column]:,}\n{shares[row, column]:.0%}"
        axes.text(column, row, text, ha="center", va="center", color=text_color)
    axes.set_xticks(range(len(columns)), columns, rotation=30, ha="right", parse_math=False)
    axes.set_yticks(range(len(labels)), labels, parse_math=False)
    axes.set(xlabel="predicted", ylabel="gold")
    axes.set_title(f"{title}\n{table.remark}" if table.remark else title, parse_math=False)
    figure.colorbar(image, ax=axes, label="fraction of rows with this gold label", shrink=0.8)
    figure.savefig(path, dpi=150, format="png")


def _shorten(name: str) -> str:
    return name if len(name) <= _MAX_NAME_LENGTH else f"{name[: _MAX_NAME_LENGTH - 3]}..."


def plot_reliability(panels: Mapping[str, ReliabilityBins], title: str, path: Path) -> None:
    """Plot reliability diagrams: accuracy by confidence, with the number of rows per bin below.

    The bars of a calibrated model end on the diagonal.

    Args:
        panels: The title and bins of each diagram, from left to right.
        title: The title of the figure.
        path: The PNG file to write.
    """
    figure = Figure(figsize=(4.6 * len(panels) + 0.6, 5.6), layout="constrained")
    axes = figure.subplots(2, len(panels), sharex=True, sharey="row", squeeze=False, height_ratios=(3, 1.2))
    for (name, bins), upper, lower in zip(panels.items(), axes[0], axes[1], strict=True):
        _draw_accuracies(upper, bins)
        upper.set_title(f"{name}\nECE {bins.error:.3f}", fontsize=10, parse_math=False)
        _draw_counts(lower, bins)
    axes[0, 0].set_ylabel("accuracy")
    max_count = max(int(bins.counts.max()) for bins in panels.values())
    axes[1, 0].set(ylabel="rows", ylim=(0, max_count * 1.8))  # room for the numbers above the bars
    axes[0, 0].legend(loc="upper left", fontsize=8)
    figure.suptitle(title, parse_math=False)
    figure.savefig(path, dpi=150, format="png")


def _draw_accuracies(axes: Axes, bins: ReliabilityBins) -> None:
    edges, width = _left_edges(bins)
    non_empty = bins.counts > 0
    axes.bar(
        edges[non_empty],
        bins.accuracy[non_empty],
        width,
        align="edge",
        color="#4c78a8",
        edgecolor="white",
        label="accuracy",
    )
    axes.plot(
        bins.confidence[non_empty],
        bins.confidence[non_empty],
        "o",
        color="#e45756",
        markersize=4,
        label="mean confidence",
    )
    axes.plot([0, 1], [0, 1], "--", color="gray", linewidth=1)
    axes.set(xlim=(0, 1), ylim=(0, 1))


def _draw_counts(axes: Axes, bins: ReliabilityBins) -> None:
    edges, width = _left_edges(bins)
    bars = axes.bar(edges, bins.counts, width, align="edge", color="#9aa5b1", edgecolor="white")
    labels = [f"{count:,}" if count else "" for count in bins.counts]
    axes.bar_label(bars, labels, fontsize=7, rotation=90, padding=2)
    axes.set_xlabel("confidence")


def _left_edges(bins: ReliabilityBins) -> tuple[np.ndarray, float]:
    width = 1 / len(bins.counts)
    return np.arange(len(bins.counts)) * width, width
