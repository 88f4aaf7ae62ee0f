"""Pictures of results, as PNG files."""

from collections.abc import Sequence
from pathlib import Path

import matplotlib
import numpy as np

matplotlib.use("Agg")  # no screen on a server

from matplotlib.figure import Figure


def plot_confusion_matrix(
    matrix: Sequence[Sequence[int]],
    labels: Sequence[str],
    title: str,
    path: Path,
    *,
    invalid: Sequence[int] | None = None,
) -> None:
    """Draw counts and row shares of a confusion matrix.

    Args:
        matrix: [gold, predicted] counts, in the order of `labels`.
        labels: the classes.
        title: what stands above.
        path: the PNG to write.
        invalid: [gold] counts of answers that are no label; they get a column of their own.
    """
    counts = np.array(matrix)
    columns = list(labels)
    if invalid is not None:
        counts = np.column_stack([counts, invalid])
        columns.append("(no label)")
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    size = 2.2 + 1.1 * len(labels)
    figure = Figure(figsize=(size + 0.8 + 1.1 * (len(columns) - len(labels)), size), layout="constrained")
    axes = figure.add_subplot()
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    for row, column in np.ndindex(*counts.shape):
        ink = "white" if shares[row, column] > 0.5 else "black"
        text = f"{counts[row, column]:,}\n{shares[row, column]:.0%}"
        axes.text(column, row, text, ha="center", va="center", color=ink)
    axes.set_xticks(range(len(columns)), columns, rotation=30, ha="right")
    axes.set_yticks(range(len(labels)), labels)
    axes.set(xlabel="predicted", ylabel="gold", title=title)
    figure.colorbar(image, ax=axes, label="share of the gold label", shrink=0.8)
    figure.savefig(path, dpi=150, format="png")
