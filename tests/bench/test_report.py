"""Reports: numbers, tables, and results that survive being saved."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from unionfs.bench import plots, report
from unionfs.bench.context import Record
from unionfs.bench.results import Results, load
from unionfs.bench.targets import judge

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def results() -> Results:
    made = Results(machine={"kernel": "Linux"}, versions={"kernel": "6.18", "unionfs": "1"}, settings={"client": "c"})
    for value in (10.0, 11.0, 12.0):
        made.add("kernel", [Record("stat cold, 2 layers", "µs", value, 0.0, 0)])
        requests = {"LOOKUP": 2000, "FORGET": 10}
        made.add("unionfs", [Record("stat cold, 2 layers", "µs", 2 * value, 0.201, 20480, requests, {"p50": 1.0})])
    made.add("unionfs", [Record("mount", "ms", 120.0, 0.1, 20480)])
    made.failures.append("untar, unionfs: EIO")
    return made


@pytest.mark.parametrize(("value", "text"), [
    (0, "0"), (0.01234, "0.0123"), (0.5, "0.500"), (1.234, "1.23"), (12.34, "12.3"), (123.4, "123"),
    (12345.6, "12,346")])  # fmt: skip
def test_numbers_have_three_digits(value: float, text: str) -> None:
    assert report.number(value) == text


def test_tables_are_aligned() -> None:
    lines = report.table(["name", "µs"], [["a", "1.00"], ["longer", "22.0"]]).splitlines()
    assert lines == ["| name   |   µs |", "| ------ | ---: |", "| a      | 1.00 |", "| longer | 22.0 |"]


def test_measurements_show_ratios_and_gaps(results: Results) -> None:
    lines = report.measurements(results).splitlines()
    assert [c.strip() for c in lines[2].split("|")[1:-1]] == [
        "stat cold, 2 layers",
        "µs",
        "11.0",
        "22.0 (2.00)",
    ]
    assert [c.strip() for c in lines[3].split("|")[1:-1]] == ["mount", "ms", "-", "120"]


def test_noise_is_marked(results: Results) -> None:
    results.add("unionfs", [Record("mount", "ms", value, 0.0, 0) for value in (60.0, 240.0)])
    assert "120~" in report.measurements(results)


def test_requests_by_opcode(results: Results) -> None:
    line = report.requests(results).splitlines()[2]
    assert [c.strip() for c in line.split("|")[1:-1]] == [
        "stat cold, 2 layers",
        "2,010",
        "100.0",
        "LOOKUP 2,000, FORGET 10",
    ]


def test_the_summary_has_targets_and_failures(results: Results) -> None:
    text = report.summary(results, judge(results))
    assert "| mount" in text
    assert "met" in text
    assert "- untar, unionfs: EIO" in text


def test_saved_results_are_the_same(results: Results, tmp_path: Path) -> None:
    results.save(tmp_path / "results.json")
    assert load(tmp_path / "results.json") == results


def test_plots(results: Results, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    for metric in (
        "stat cold, 120 layers",
        "stat negative, 2 layers",
        "one byte in 4 KiB",
        "one byte in 1 GiB",
    ):
        for engine in ("kernel", "unionfs"):
            results.add(engine, [Record(metric, "µs", 5.0, 0.0, 0)])
    assert plots.draw(results, tmp_path) == ["ratios", "layers", "copyup"]
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        f"{name}.{kind}" for name in ("copyup", "layers", "ratios") for kind in ("png", "svg")
    ]
