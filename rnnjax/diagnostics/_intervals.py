"""Confidence intervals of means over a few seeds."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy.special import stdtrit


class Interval(NamedTuple):
    """An estimate and the ends of its interval."""

    estimate: float
    low: float
    high: float


def of_mean(scores: np.ndarray, confidence: float, bounds: tuple[float, float] = (-np.inf, np.inf)) -> Interval:
    """Student's interval of the mean: m ± t s / √n, with t of n − 1 degrees of freedom, cut off at the bounds of what
    a score can be."""
    half = _t(confidence, scores.size - 1) * np.sqrt(_squared_error(scores))
    ends = np.clip([scores.mean() - half, scores.mean() + half], *bounds)
    return Interval(*(float(x) for x in (scores.mean(), *ends)))


def of_difference(a: np.ndarray, b: np.ndarray, confidence: float) -> Interval:
    """Welch's interval of mean(a) − mean(b), which takes no equal variances for granted.

    References:
        Welch 1947, The generalization of "Student's" problem when several different population variances are involved,
        doi:10.1093/biomet/34.1-2.28.
    """
    errors = np.array([_squared_error(a), _squared_error(b)])
    total, difference = errors.sum(), a.mean() - b.mean()
    half = 0.0
    if total > 0:
        freedom = total**2 / (errors**2 / np.array([a.size - 1, b.size - 1])).sum()
        half = _t(confidence, freedom) * np.sqrt(total)
    elif np.isnan(total):
        half = np.nan
    return Interval(*(float(x) for x in (difference, difference - half, difference + half)))


def _squared_error(scores: np.ndarray) -> float:
    return scores.var(ddof=1) / scores.size


def _t(confidence: float, freedom: float) -> float:
    return float(stdtrit(freedom, (1 + confidence) / 2))
