"""Charts of the report: axes with round ticks, curves and bars where the numbers are."""

import re

import numpy as np
import pytest

from toolkit.evaluation.calibration import bin_confidences
from toolkit.reporting.charts import dev_curve, loss_curve, reliability_diagram
from toolkit.reporting.svg import linear_axis, logarithmic_axis


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


def test_dev_curve_rings_the_kept_step() -> None:
    svg = dev_curve([10, 20, 30], [0.9, 0.7, 0.8], "nll", last_step=40, kept_step=20)
    points = re.search(r'class="line" points="([^"]+)"', svg)
    assert points is not None
    positions = [tuple(map(float, point.split(","))) for point in points.group(1).split(" ")]
    ring = re.search(r'class="ring" cx="([\d.]+)" cy="([\d.]+)"', svg)
    assert ring is not None and tuple(map(float, ring.groups())) == positions[1]
    assert max(y for _, y in positions) == positions[1][1]  # in SVG, y grows downward
    assert svg.count('class="dot"') == 3 and "<title>step 20: 0.7</title>" in svg
    assert 'aria-label="NLL of the dev rows: from 0.9 after step 10 to 0.8 after step 30"' in svg
    assert "ring" not in dev_curve([10, 20], [0.9, 0.7], "nll", last_step=40, kept_step=None)


def test_one_validation_is_a_dot() -> None:
    svg = dev_curve([40], [0.705], "accuracy", last_step=40, kept_step=40)
    assert svg.count('class="dot"') == 1 and "<title>step 40: 70.5%</title>" in svg
    assert 'aria-label="accuracy of the dev rows: 70.5% after step 40"' in svg


@pytest.mark.parametrize(("low", "high"), [(0.79, 1.0), (0.7012, 0.7048), (0.5, 0.5), (0.0, 0.0), (5.5, 9.0)])
def test_dev_axis_covers_all_values(low: float, high: float) -> None:
    svg = dev_curve([1, 2], [low, high], "nll", last_step=2, kept_step=None)
    heights = [float(height) for height in re.findall(r'cy="([\d.]+)"', svg)]
    ticks = [float(tick) for tick in re.findall(r'class="grid" x1="68" y1="([\d.]+)"', svg)]
    assert len(ticks) > 1 and all(min(ticks) <= height <= max(ticks) for height in heights)


def test_many_validations_have_no_dots() -> None:
    steps = list(range(1, 500))
    svg = dev_curve(steps, np.linspace(2, 1, 499).tolist(), "nll", last_step=499, kept_step=499)
    assert "dot" not in svg and svg.count("ring") == 1
