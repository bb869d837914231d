"""Medians, spreads and ratios of a few noisy measurements. Pure functions of numbers."""

from __future__ import annotations

import random
import statistics
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass(frozen=True)
class Summary:
    """What is reported of one metric of one engine: median, median absolute deviation and quartiles."""

    n: int
    median: float
    mad: float
    q1: float
    q3: float

    @property
    def spread(self) -> float:
        """The interquartile range as a share of the median; 0 where the median is 0."""
        return (self.q3 - self.q1) / self.median if self.median else 0.0


@dataclass(frozen=True)
class Ratio:
    """A ratio of two medians and the interval that holds it with the asked confidence."""

    value: float
    low: float
    high: float


def quantile(ordered: Sequence[float], share: float) -> float:
    """The value below which `share` of the sorted numbers lie, interpolated. Raises ValueError on an empty
    sequence.
    """
    if not ordered:
        raise ValueError("no values")
    place = share * (len(ordered) - 1)
    below = int(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (place - below)


def summarize(values: Sequence[float]) -> Summary:
    """Raises ValueError on an empty sequence."""
    ordered = sorted(values)
    median = quantile(ordered, 0.5)
    mad = statistics.median(abs(v - median) for v in ordered)
    return Summary(len(ordered), median, mad, quantile(ordered, 0.25), quantile(ordered, 0.75))


def ratio(ours: Sequence[float], theirs: Sequence[float], confidence: float = 0.9, draws: int = 1000) -> Ratio:
    """median(ours) / median(theirs) with a bootstrap interval, the same for the same numbers.

    With very few values the interval is too narrow rather than too wide: it can only be made of what was
    seen. Raises ValueError where either is empty, ZeroDivisionError where `theirs` holds a zero median.
    """
    value = statistics.median(ours) / statistics.median(theirs)
    rng = random.Random(len(ours) * 1_000_003 + len(theirs))
    seen = []
    for _ in range(draws):
        bottom = statistics.median(rng.choices(theirs, k=len(theirs)))
        if bottom:
            seen.append(statistics.median(rng.choices(ours, k=len(ours))) / bottom)
    seen.sort()
    margin = (1 - confidence) / 2
    if not seen:
        return Ratio(value, value, value)
    return Ratio(value, quantile(seen, margin), quantile(seen, 1 - margin))
