"""The small parts: engine lists, counters in logs, fixtures."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from unionfs.bench import counters, short
from unionfs.bench.engines import ENGINES, select
from unionfs.bench.fixtures import Fixtures, listings, one_directory, tree
from unionfs.bench.process import Daemon, cpu_seconds
from unionfs.bench.workloads import ALL

if TYPE_CHECKING:
    from pathlib import Path


def test_engines_with_options(tmp_path: Path) -> None:
    plain, tuned = select("kernel,unionfs:fsync=0:acl=off")
    assert plain is ENGINES["kernel"]
    assert (tuned.name, tuned.options) == ("unionfs:fsync=0:acl=off", ("fsync=0", "acl=off"))
    stack = Fixtures(tmp_path).stack("s", 2, one_directory(1), flat=False)
    assert "fsync=0,acl=off" in " ".join(tuned.command(tuned, stack, tmp_path / "mnt", tmp_path))


def test_an_unknown_engine_is_named() -> None:
    with pytest.raises(ValueError, match="unknown engine 'zfs'"):
        select("kernel,zfs")


def test_mergerfs_takes_no_part_in_changes() -> None:
    fitting = {w.name for w in ALL if w.fits(ENGINES["mergerfs"])}
    assert {"untar", "walk"} <= fitting
    assert not {"chmod", "remove", "copyup-many"} & fitting


def test_workloads_have_names_of_their_own() -> None:
    assert len({w.name for w in ALL}) == len(ALL)
    assert set(short.WORKLOADS) <= {w.name for w in ALL}


@pytest.mark.parametrize(("log", "wanted"), [
    ("", {}),
    ("2026-01-02 03:04:05.678 counters: LOOKUP=3 READ=1 copy_ups=7\n", {"LOOKUP": 3, "READ": 1}),
    ("2026 1 LOOKUP=3\n2026 2 mounted at m, a=b\n2026 3 LOOKUP=5 nodes=2\n", {"LOOKUP": 5}),
    ("2026 1 LOOKUP=3\n2026 2 LOOKUP=55", {"LOOKUP": 3}),
])  # fmt: skip
def test_counters_of_a_log(log: str, wanted: dict[str, int]) -> None:
    assert counters.parse(log) == wanted


def test_cpu_time_of_a_process_grows_with_work() -> None:
    before = cpu_seconds(os.getpid())
    sum(range(200_000))
    assert 0 < before < cpu_seconds(os.getpid())
    assert Daemon([os.getpid()]).rss() > 1000
    assert Daemon([os.getpid()]).alive()


def contents(root: Path) -> dict[str, bytes]:
    return {str(p.relative_to(root)): p.read_bytes() for p in sorted(root.rglob("*")) if p.is_file()}


def test_fixtures_are_the_same_every_time(tmp_path: Path) -> None:
    first = Fixtures(tmp_path / "a").stack("t", 3, tree(60))
    second = Fixtures(tmp_path / "b").stack("t", 3, tree(60))
    assert contents(first.home) == contents(second.home)
    assert len(contents(first.flat)) == 60
    assert sum(len(contents(first.home / layer)) for layer in first.lowers) == 60


def test_the_flat_tree_is_the_merged_one(tmp_path: Path) -> None:
    stack = Fixtures(tmp_path).stack("s", 3, one_directory(5, own=2))
    assert len(contents(stack.flat)) == 5 + 2 * 2
    listing = Fixtures(tmp_path / "l").stack("l", 2, listings([10, 30]))
    assert len(os.listdir(listing.flat / "n30")) == 30


def test_a_stack_is_made_once(tmp_path: Path) -> None:
    fixtures = Fixtures(tmp_path)
    assert fixtures.stack("s", 2, one_directory(5)) is fixtures.stack("s", 2, one_directory(5))


def test_own_layers_must_be_there(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="none is not a directory"):
        short.own_layers([tmp_path, tmp_path / "none"])
