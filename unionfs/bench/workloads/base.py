"""What a workload is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from unionfs.bench.context import Context
    from unionfs.bench.engines import Engine, Stack
    from unionfs.bench.fixtures import Fixtures

READ, CREATE, CHANGE = "read", "create", "change"
"""What a workload does to the union: reads it, adds to it, or changes lower objects."""


@dataclass(frozen=True)
class Workload:
    """A workload: `run` does it in one context and records one or more metrics.

    `stack` makes its layers; both get quick as their last argument or attribute and then do less of the same.
    """

    name: str
    kind: str
    stack: Callable[[Fixtures, bool], Stack]
    run: Callable[[Context], None]
    rounds: int = 5
    quick: bool = True
    """Part of the quick run."""
    limit: float = 60
    """Seconds after which no further round begins."""
    upper: bool = True
    """Mounted with an upper, as containers are; without one the mount is read-only."""
    skip: tuple[str, ...] = ()
    """Engines for which it makes no sense."""

    def fits(self, engine: Engine) -> bool:
        return engine.name not in self.skip and (engine.cow or self.kind != CHANGE)
