"""The mounted workloads, by topic; `ALL` names them in the order in which they run."""

from __future__ import annotations

from unionfs.bench.workloads import copyup, data, metadata, trees
from unionfs.bench.workloads.base import Workload

__all__ = ["ALL", "Workload"]

ALL: list[Workload] = [*metadata.WORKLOADS, *data.WORKLOADS, *trees.WORKLOADS, *copyup.WORKLOADS]
