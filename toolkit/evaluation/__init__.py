"""Metrics, confidence intervals, calibration, baselines and comparisons of models."""
