"""Plots of a run. matplotlib is optional (extra `bench`) and only imported here."""

from __future__ import annotations

from pathlib import Path

from unionfs.bench.results import Results


def draw(results: Results, folder: Path) -> bool:
    return False
