"""Results as text: tables for a terminal, which are Markdown too."""

from __future__ import annotations

import unicodedata
from typing import TYPE_CHECKING

from unionfs.bench.targets import RATE, Verdict

if TYPE_CHECKING:
    from collections.abc import Sequence

    from unionfs.bench.results import Results, Series

NOISY = 0.25
"""An interquartile range above this share of the median is marked with ~."""


def number(value: float) -> str:
    """Three significant digits, never in powers of ten: 0.0123, 1.23, 12.3, 1,234."""
    if value == 0:
        return "0"
    digits = 2
    size = abs(value)
    while size >= 10 and digits > 0:
        size, digits = size / 10, digits - 1
    while size < 1 and digits < 6:
        size, digits = size * 10, digits + 1
    return f"{value:,.{digits}f}"


def width(text: str) -> int:
    """Columns that the text takes in a terminal."""
    return sum(0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text)


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table with aligned columns: the first to the left, the others to the right."""
    widths = [max(width(row[i]) for row in [header, *rows]) for i in range(len(header))]

    def line(cells: Sequence[str]) -> str:
        padded = [cell + " " * (w - width(cell)) if i == 0 else " " * (w - width(cell)) + cell
                  for i, (cell, w) in enumerate(zip(cells, widths, strict=True))]  # fmt: skip
        return "| " + " | ".join(padded) + " |"

    rule = ["-" * w if i == 0 else "-" * (w - 1) + ":" for i, w in enumerate(widths)]
    return "\n".join([line(header), line(rule), *(line(row) for row in rows)])


def cell(series: Series | None, baseline: Series | None = None) -> str:
    """A median, its ratio to the baseline's in brackets, and ~ where it is noisy."""
    if not series:
        return "-"
    summary = series.summary
    text = number(summary.median) + ("~" if summary.spread > NOISY else "")
    if baseline and baseline is not series and baseline.summary.median:
        text += f" ({summary.median / baseline.summary.median:.2f})"
    return text


def measurements(results: Results, baseline: str = "kernel") -> str:
    """Medians of every metric by engine; in brackets the ratio to the baseline's."""
    engines = results.engines()
    rows = []
    for metric in results.metrics():
        found = [results.get(metric, engine) for engine in engines]
        unit = next(series.unit for series in found if series)
        rows.append([metric, unit, *(cell(series, results.get(metric, baseline)) for series in found)])
    return table(["median", "unit", *engines], rows)


def targets(verdicts: Sequence[Verdict]) -> str:
    """Targets and figures side by side."""
    rows = []
    for v in verdicts:
        seen = f"{v.ratio.value:.2f} ({v.ratio.low:.2f}..{v.ratio.high:.2f})" if v.ratio else number(v.ours)
        reference = "" if v.reference is None else number(v.reference)
        rows.append([v.metric, v.unit, number(v.ours), reference, v.target, seen, "met" if v.met else "MISSED"])
    met = sum(v.met for v in verdicts)
    heading = ["target", "unit", "ours", "reference", "wanted", "measured", f"{met}/{len(rows)}"]
    return table(heading, rows)


def daemons(results: Results) -> str:
    """CPU of each daemon per workload and its memory after it, for the engines that have a daemon."""
    engines = [
        e for e in results.engines() if any(s.rss and max(s.rss) for (_, n), s in results.series.items() if n == e)
    ]
    rows = []
    for metric in results.metrics():
        found = [results.get(metric, engine) for engine in engines]
        if any(series and series.cpu_median > 0.001 for series in found):
            rows.append(
                [
                    metric,
                    *(f"{number(s.cpu_median)} s, {s.rss[-1] / 1024:.0f} MiB" if s else "-" for s in found),
                ]
            )
    return table(["daemon CPU and memory", *engines], rows) if rows else ""


def requests(results: Results, engine: str = "unionfs") -> str:
    """Requests by opcode that each workload caused, with the daemon's µs per request."""
    rows = []
    for metric in results.metrics():
        series = results.get(metric, engine)
        if series and (total := sum(series.requests.values())):
            parts = sorted(series.requests.items(), key=lambda item: -item[1])
            text = ", ".join(f"{name} {count:,}" for name, count in parts[:6])
            rows.append([metric, f"{total:,}", f"{series.cpu_median * 1e6 / total:.1f}", text])
    return table([f"requests to {engine}", "total", "daemon µs each", "by opcode"], rows) if rows else ""


def heading(results: Results) -> str:
    """Machine, versions and settings, one a line."""
    lines = [f"{key}: {value}" for key, value in results.machine.items()]
    lines += [f"{engine}: {version}" for engine, version in results.versions.items()]
    lines += [f"{engine}: left out, {reason}" for engine, reason in results.skipped.items()]
    lines += [f"{key}: {value}" for key, value in results.settings.items()]
    return "\n".join(f"- {line}" for line in lines)


def summary(results: Results, verdicts: Sequence[Verdict]) -> str:
    """The whole report."""
    parts = [
        heading(results),
        measurements(results) + f"\n\nIn brackets: ratio to kernel overlay ({RATE}: more is better). ~ marks noise.",
        daemons(results),
        requests(results),
        targets(verdicts) if verdicts else "",
        "\n".join(["failures:", *(f"- {failure}" for failure in results.failures)]) if results.failures else "",
        f"took {results.seconds / 60:.1f} minutes",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"
