"""Plots of a run. matplotlib is optional (extra `bench`) and only imported here."""

from __future__ import annotations

import fnmatch
import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from unionfs.bench.results import Results

COLOURS = {
    "ext4": "#999999",
    "kernel": "#000000",
    "unionfs": "#D55E00",
    "fusepy": "#E69F00",
    "fuse-overlayfs": "#0072B2",
    "unionfs-fuse": "#009E73",
    "mergerfs": "#CC79A7",
}
"""Colours that people with any kind of colour vision tell apart (Okabe and Ito)."""

MARKERS = dict(zip(COLOURS, "|Do^svP", strict=True))


def draw(results: Results, folder: Path) -> list[str]:
    """Writes every plot for which there are figures as NAME.svg and NAME.png; the names. Empty without
    matplotlib.
    """
    try:
        import matplotlib
    except ImportError:
        return []
    matplotlib.use("Agg")
    matplotlib.rcParams.update(
        {"svg.hashsalt": "unionfs", "font.size": 9, "axes.spines.top": False, "axes.spines.right": False}
    )
    drawn = []
    for name, make in (("ratios", _ratios), ("layers", _layers), ("readdir", _readdir), ("data", _data),
                       ("copyup", _copyup)):  # fmt: skip
        figure = make(results)
        if figure:
            for kind in ("svg", "png"):
                figure.savefig(folder / f"{name}.{kind}", dpi=130, metadata={"Date": None} if kind == "svg" else None)
            drawn.append(name)
    return drawn


def _ratios(results: Results) -> Figure | None:
    """Every timed metric of every engine as a multiple of kernel overlay's time."""
    metrics = [m for m in results.metrics() if (s := results.get(m, "kernel")) and s.unit in ("µs", "ms", "s")]
    if not metrics:
        return None
    figure, axes = _figure(8.5, 1.2 + 0.2 * len(metrics))
    for engine in results.engines():
        points = [(_median(results, m, engine) / _median(results, m, "kernel"), len(metrics) - i)
                  for i, m in enumerate(metrics) if results.get(m, engine)]  # fmt: skip
        if points and engine != "kernel":
            x, y = zip(*points, strict=True)
            axes.scatter(x, y, s=26, label=engine, color=_colour(engine), marker=MARKERS.get(engine, "x"))
    axes.axvline(1, color=_colour("kernel"), linewidth=1, label="kernel overlay")
    axes.set(
        xscale="log",
        xlabel="time as a multiple of kernel overlay's (less is better)",
        ylim=(0, len(metrics) + 1),
    )
    axes.set_yticks(range(len(metrics), 0, -1), metrics)
    axes.grid(axis="both", alpha=0.25)
    axes.legend(loc="lower center", bbox_to_anchor=(0.4, 1), ncols=4, frameon=False)
    return figure


def _layers(results: Results) -> Figure | None:
    figure, panels = _panels(2)
    for axes, kind in zip(panels, ("stat cold", "stat negative"), strict=True):
        if not _curves(axes, results, f"{kind}, * layers", "layers"):
            return None
        axes.set(title=kind, xlabel="layers", ylabel="µs per call", yscale="log", xscale="log")
    return figure


def _readdir(results: Results) -> Figure | None:
    figure, panels = _panels(2)
    for axes, kind in zip(panels, ("readdir cold", "readdir warm"), strict=True):
        if not _curves(axes, results, f"{kind}, * entries", "entries", lambda count: count):
            return None
        axes.set(title=kind, xlabel="entries of the directory", ylabel="µs per entry", yscale="log", xscale="log")
    return figure


def _copyup(results: Results) -> Figure | None:
    figure, panels = _panels(1)
    if not _curves(panels[0], results, "one byte in *", "B", lambda _: 1000):
        return None
    panels[0].set(
        title="changing one byte of a lower file",
        xlabel="bytes of the file",
        ylabel="ms",
        yscale="log",
        xscale="log",
    )
    return figure


def _data(results: Results) -> Figure | None:
    metrics = [
        m for m in results.metrics() if any((s := results.get(m, e)) and s.unit == "MB/s" for e in results.engines())
    ]
    if not metrics:
        return None
    figure, axes = _figure(8.5, 1 + 0.16 * len(metrics) * len(results.engines()))
    engines = results.engines()
    for i, engine in enumerate(engines):
        places = [j + (i - len(engines) / 2) * 0.8 / len(engines) for j in range(len(metrics))]
        axes.barh(places, [_median(results, m, engine) for m in metrics], 0.75 / len(engines), label=engine,
                  color=_colour(engine))  # fmt: skip
    axes.set(xlabel="MB/s (more is better)", xscale="log")
    axes.set_yticks(range(len(metrics)), metrics)
    axes.invert_yaxis()
    axes.legend(loc="lower center", bbox_to_anchor=(0.4, 1), ncols=4, frameon=False)
    return figure


def _curves(axes: Axes, results: Results, pattern: str, noun: str, divide: object = None) -> bool:
    """One line per engine over the number that the metric's name holds; False where no metric matches."""
    found = {_size(m, noun): m for m in fnmatch.filter(results.metrics(), pattern)}
    if not found:
        return False
    for engine in results.engines():
        points = [(size, _median(results, m, engine) / (divide(size) if callable(divide) else 1))
                  for size, m in sorted(found.items()) if results.get(m, engine)]  # fmt: skip
        if points:
            x, y = zip(*points, strict=True)
            axes.plot(x, y, label=engine, color=_colour(engine), marker=MARKERS.get(engine, "x"), markersize=4)
    axes.grid(alpha=0.25)
    axes.legend(frameon=False)
    return True


def _size(metric: str, noun: str) -> int:
    """The number before the noun: 8 of "8 layers", 10000 of "10,000 entries", 4096 of "4 KiB"."""
    match = re.search(rf"([\d,]+) ([KMG]?)i?{noun}", metric)
    if not match:
        raise ValueError(metric)
    return int(match[1].replace(",", "")) << {"": 0, "K": 10, "M": 20, "G": 30}[match[2]]


def _median(results: Results, metric: str, engine: str) -> float:
    series = results.get(metric, engine)
    return series.summary.median if series else 0.0


def _colour(engine: str) -> str:
    return COLOURS.get(engine.partition(":")[0], "#56B4E9")


def _figure(wide: float, high: float) -> tuple[Figure, Axes]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(wide, high), layout="constrained")
    return figure, figure.subplots()


def _panels(count: int) -> tuple[Figure, list[Axes]]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.6 * count, 3.6), layout="constrained")
    return figure, list(figure.subplots(1, count, squeeze=False)[0])
