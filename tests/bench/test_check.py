"""What `make bench-check` calls slower, with benchmarks whose times are given."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from bench import check
from bench.micro.case import Bench, Case
from unionfs.bench.stats import Ratio

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path


class Timed(Bench):
    """A benchmark that takes the given µs, over and over."""

    def __init__(self, times: Iterable[float]) -> None:
        super().__init__(lambda: None, 1)
        self.times = list(times)
        self.turns = 0

    def once(self) -> float:
        self.turns += 1
        return self.times[self.turns % len(self.times)]


def test_the_figure_is_a_ratio_to_the_calibration() -> None:
    figure = check.measure(Timed([30.0]), Timed([10.0]))
    assert figure.ratio == Ratio(3.0, 3.0, 3.0)
    assert figure.micros == 30.0


def test_a_slow_machine_changes_no_ratio() -> None:
    fast, slow = ([9.0, 10.0, 11.0], [27.0, 30.0, 33.0])
    one = check.measure(Timed([3 * t for t in fast]), Timed(fast))
    other = check.measure(Timed([3 * t for t in slow]), Timed(slow))
    assert one.ratio.value == pytest.approx(other.ratio.value)


@pytest.mark.parametrize(("low", "slower"), [(1.2, False), (1.26, True)])
def test_the_whole_interval_must_lie_above_the_tolerance(low: float, slower: bool) -> None:
    assert check.slower(Ratio(2.0, low, 3.0), 1.0, tolerance=0.25) is slower


@pytest.mark.parametrize(("times", "baseline", "bad"), [
    ([20.0], 1.0, True),
    ([20.0], 1.9, False),
    ([20.0], None, False),
    ([11.0, 9.0, 40.0], 1.0, False),
])  # fmt: skip
def test_a_regression_and_noise(
    times: list[float], baseline: float | None, bad: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(check, "calibration", lambda _: Timed([10.0]))
    seen = check.check(Case("group", "name", lambda _: Timed(times)), baseline, tmp_path / "case")
    assert seen[1] is bad


def test_one_slow_spell_is_not_a_regression(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(check, "calibration", lambda _: Timed([10.0]))
    spell = [20.0] * (check.ROUNDS + 3) + [10.0] * 100
    figure, bad = check.check(Case("group", "name", lambda _: Timed(spell)), 1.0, tmp_path / "case")
    assert not bad
    assert figure.ratio.value == pytest.approx(1.0)
