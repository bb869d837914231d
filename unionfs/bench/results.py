"""The result of a run: values by workload, metric and engine, as JSON and back."""

from __future__ import annotations

import json
import statistics
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING

from unionfs.bench.stats import Summary, summarize

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from unionfs.bench.context import Record


@dataclass
class Series:
    """All values of one metric of one engine, in the order of the rounds."""

    metric: str
    unit: str
    engine: str
    values: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    rss: list[int] = field(default_factory=list)
    requests: dict[str, int] = field(default_factory=dict)
    """Of the last round."""
    detail: dict[str, float] = field(default_factory=dict)
    """Of the last round."""

    @property
    def summary(self) -> Summary:
        return summarize(self.values)

    def plain(self) -> dict[str, object]:
        """For JSON: the fields, and the summary for readers without Python."""
        s = self.summary
        return {**asdict(self), "median": s.median, "mad": s.mad, "q1": s.q1, "q3": s.q3}

    @property
    def cpu_median(self) -> float:
        return statistics.median(self.cpu)


@dataclass
class Results:
    """Everything that a report needs."""

    machine: dict[str, str] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    settings: dict[str, str] = field(default_factory=dict)
    series: dict[tuple[str, str], Series] = field(default_factory=dict)
    """By metric and engine; metrics keep the order in which they came."""
    failures: list[str] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)
    """Engines that could not run, and why."""
    seconds: float = 0.0

    def add(self, engine: str, records: Iterable[Record]) -> None:
        for record in records:
            series = self.series.setdefault((record.metric, engine), Series(record.metric, record.unit, engine))
            series.values.append(record.value)
            series.cpu.append(record.cpu)
            series.rss.append(record.rss)
            series.requests, series.detail = record.requests, record.detail

    def metrics(self) -> list[str]:
        return list(dict.fromkeys(metric for metric, _ in self.series))

    def engines(self) -> list[str]:
        """Engines with any value, in the order of the versions."""
        seen = {engine for _, engine in self.series}
        return [engine for engine in self.versions if engine in seen]

    def get(self, metric: str, engine: str) -> Series | None:
        return self.series.get((metric, engine))

    def save(self, path: Path) -> None:
        plain = {**asdict(self), "series": [s.plain() for s in self.series.values()]}
        path.write_text(json.dumps(plain, indent=1, ensure_ascii=False) + "\n")


def load(path: Path) -> Results:
    """Reads what `save` wrote."""
    plain = json.loads(path.read_text())
    derived = ("median", "mad", "q1", "q3")
    series = [Series(**{k: v for k, v in item.items() if k not in derived}) for item in plain.pop("series")]
    return Results(**plain, series={(s.metric, s.engine): s for s in series})
