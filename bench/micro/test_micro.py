"""`make bench`: every case under pytest-benchmark. A time is that of one run, of extra_info.operations operations."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from bench.micro import union_cases, wire_cases

if TYPE_CHECKING:
    from pathlib import Path

    from pytest_benchmark.fixture import BenchmarkFixture

    from bench.micro.case import Case

ROUNDS = 20

CASES = [*wire_cases.CASES, *union_cases.CASES]


@pytest.mark.timeout(300)
@pytest.mark.parametrize("case", [pytest.param(case, id=f"{case.group}: {case.name}") for case in CASES])
def test_micro(case: Case, benchmark: BenchmarkFixture, tmp_path: Path) -> None:
    bench = case.prepare(tmp_path)
    benchmark.group = case.group
    benchmark.extra_info["operations"] = bench.count
    try:
        rounds = 5 if case.slow else ROUNDS
        benchmark.pedantic(bench.run, setup=bench.reset, rounds=rounds, warmup_rounds=1)  # type: ignore[no-untyped-call]
    finally:
        bench.close()
