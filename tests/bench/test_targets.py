"""What counts as a target met."""

from __future__ import annotations

import pytest

from unionfs.bench.context import Record
from unionfs.bench.results import Results
from unionfs.bench.targets import TARGETS, Target, judge


def results(unit: str, **engines: list[float]) -> Results:
    made = Results()
    for engine, values in engines.items():
        made.add(engine.replace("_", "-"), [Record("metric", unit, value, 0.0, 0) for value in values])
    return made


@pytest.mark.parametrize(("ours", "met"), [(0.89, True), (0.9, True), (0.91, False)])
def test_time_is_at_most_a_multiple(ours: float, met: bool) -> None:
    seen = judge(results("s", unionfs=[ours], fuse_overlayfs=[1.0]), targets=[Target("metric", "fuse-overlayfs", 0.9)])
    assert [v.met for v in seen] == [met]
    assert seen[0].ratio
    assert seen[0].ratio.value == pytest.approx(ours)


@pytest.mark.parametrize(("unit", "ours", "met"), [
    ("MB/s", 96.0, True), ("MB/s", 94.0, False), ("µs", 104.0, True), ("µs", 106.0, False)])  # fmt: skip
def test_throughput_is_at_least_a_share(unit: str, ours: float, met: bool) -> None:
    target = Target("metric", "kernel", 0.95, throughput=True)
    seen = judge(results(unit, unionfs=[ours], kernel=[100.0]), targets=[target])
    assert [v.met for v in seen] == [met]


@pytest.mark.parametrize(("ours", "met"), [(150.0, True), (151.0, False)])
def test_a_bound_without_reference(ours: float, met: bool) -> None:
    seen = judge(results("ms", unionfs=[ours]), targets=[Target("metric", None, 150)])
    assert [(v.met, v.ratio) for v in seen] == [(met, None)]


def test_the_median_decides() -> None:
    seen = judge(
        results("s", unionfs=[1.0, 1.0, 9.0], kernel=[1.0, 1.0, 1.0]),
        targets=[Target("metric", "kernel", 1.5)],
    )
    assert [v.met for v in seen] == [True]


def test_no_verdict_without_measurement() -> None:
    assert not judge(results("s", unionfs=[1.0]), targets=[Target("metric", "kernel", 1.5)])
    assert not judge(results("s", kernel=[1.0]), targets=[Target("metric", "kernel", 1.5)])


def test_patterns_take_every_matching_metric() -> None:
    made = Results()
    for metric in ("stat warm, 2 layers", "stat warm, 8 layers", "stat cold, 2 layers"):
        for engine in ("unionfs", "kernel"):
            made.add(engine, [Record(metric, "µs", 1.0, 0.0, 0)])
    seen = judge(made, targets=[Target("stat warm, * layers", "kernel", 0.95, throughput=True)])
    assert [v.metric for v in seen] == ["stat warm, 2 layers", "stat warm, 8 layers"]


def test_every_target_has_a_workload_that_measures_it() -> None:
    """Reads the workloads' sources: a renamed metric must not silently lose its target."""
    from pathlib import Path

    from unionfs.bench import workloads

    text = "".join(p.read_text() for p in Path(workloads.__file__).parent.glob("*.py"))
    for target in TARGETS:
        stem = target.metric.partition("*")[0].partition(",")[0].removesuffix(" cold").strip()
        assert f'"{stem}' in text, target.metric
