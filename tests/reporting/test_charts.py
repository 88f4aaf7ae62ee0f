"""Charts of the report: axes with round ticks, curves and bars where the numbers are."""

import re

import numpy as np
import pytest

from toolkit.evaluation.calibration import bin_confidences
from toolkit.reporting.charts import linear_axis, logarithmic_axis, loss_curve, reliability_diagram


@pytest.mark.parametrize(
    ("high", "ticks"),
    [(6.02, (0, 2, 4, 6, 8)), (200, (0, 50, 100, 150, 200)), (1, (0, 0.2, 0.4, 0.6, 0.8, 1)), (7, (0, 2, 4, 6, 8))],
)
def test_linear_ticks_are_round_and_cover_the_range(high: float, ticks: tuple[float, ...]) -> None:
    axis = linear_axis(0, high, 100, 0)
    assert axis.ticks == ticks
    assert axis(0) == 100 and axis(axis.high) == 0


def test_logarithmic_ticks_are_equally_spaced() -> None:
    axis = logarithmic_axis(0.004, 6.0, 0, 400)
    assert axis.ticks == (0.001, 0.01, 0.1, 1.0, 10.0)
    assert [axis(tick) for tick in axis.ticks] == [0, 100, 200, 300, 400]


def test_loss_curve_follows_the_loss() -> None:
    svg = loss_curve([1, 2, 3, 4], [4.0, 3.0, 2.0, 1.0])
    faint = re.search(r'class="faint" points="([^"]+)"', svg)
    assert faint is not None
    heights = [float(point.split(",")[1]) for point in faint.group(1).split(" ")]
    assert heights == sorted(heights) and len(set(heights)) == 4  # in SVG, y grows downward
    assert "optimizer step" in svg and "training loss" in svg and "log scale" not in svg


def test_long_loss_curve_keeps_its_spike() -> None:
    losses = np.linspace(3, 1, 50_000)
    losses[31_234] = 2.9
    svg = loss_curve(list(range(50_000)), losses.tolist())
    assert len(svg) < 40_000
    faint = re.search(r'class="faint" points="([^"]+)"', svg)
    assert faint is not None
    heights = np.array([float(point.split(",")[1]) for point in faint.group(1).split(" ")])
    assert (np.diff(heights) < -50).sum() == 1  # one jump up, which is the spike


def test_loss_over_decades_uses_a_log_scale() -> None:
    assert "log scale" in loss_curve(list(range(400)), np.geomspace(10, 0.01, 400).tolist())


def test_reliability_bar_heights_equal_accuracy() -> None:
    confidence, correct = [0.98] * 10 + [0.51] * 10, [True] * 10 + [True, False] * 5
    svg = reliability_diagram(bin_confidences(np.array(confidence), np.array(correct)))
    heights = [float(h) for h in re.findall(r'class="bar"[^>]* height="([\d.]+)"', svg)]
    assert len(heights) == 2 and heights[0] == pytest.approx(heights[1] / 2, abs=0.02)
    assert "10 rows: confidence 51.0%, accuracy 50.0%" in svg
