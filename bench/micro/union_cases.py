"""The union without a mount: lookup and merge by layers and directory size, copy-up by size and kind,
removal, renaming.

Nothing is synced (`sync=False`), so that the code is measured and not the disk.
"""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING

from bench.micro.case import Bench, Case
from unionfs.bench.fixtures import spread
from unionfs.union import Config, Union

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from unionfs.union import Dir

LAYERS = (1, 2, 10, 50, 120, 500)
SIZES = (10, 1000, 100_000)
LOOKUPS = 200
COPIES = {"0 B": (0, 50), "4 KiB": (4 << 10, 50), "1 MiB": (1 << 20, 10), "64 MiB": (64 << 20, 1)}
CHANGED = 50


class Stack:
    """Layers in a directory, and a union over them that can be made anew, over an empty upper."""

    def __init__(self, home: Path, layers: int, fill: Callable[[list[Path]], None]) -> None:
        self.home = home
        self.lowers = [home / f"lower{i}" for i in range(layers)]
        for lower in self.lowers:
            (lower / "d").mkdir(parents=True)
        fill(self.lowers)
        self.union: Union | None = None
        self.renewals = 0
        spread(home)

    def renew(self) -> None:
        """A union that knows nothing yet."""
        self.close()
        self.renewals += 1
        place = self.home / str(self.renewals)
        upper, work = place / "upper", place / "work"
        for path in (upper, work):
            path.mkdir(parents=True)
        lower = [os.fsencode(path) for path in self.lowers]
        self.union = Union(Config(lower=lower, upper=os.fsencode(upper), work=os.fsencode(work), sync=False))

    def close(self) -> None:
        if self.union:
            self.union.close()
            self.union = None

    def opened(self) -> tuple[Union, Dir]:
        """The union and its directory `d`. The caller takes the lock."""
        assert self.union
        found = self.union.lookup(self.union.root, b"d")
        assert found
        return self.union, found[0]  # type: ignore[return-value]  # a name that is a directory in every layer


def names(count: int) -> list[bytes]:
    return [b"file-%06d.txt" % i for i in range(count)]


def files(count: int, size: int = 0) -> Callable[[list[Path]], None]:
    """`count` files in the bottom layer's `d`, and one of its own in every other's."""

    def fill(lowers: list[Path]) -> None:
        for i, lower in enumerate(lowers):
            for name in names(count) if lower is lowers[-1] else [b"own-%d" % i]:
                fd = os.open(os.path.join(os.fsencode(lower), b"d", name), os.O_CREAT | os.O_WRONLY)
                os.write(fd, bytes(size))
                os.close(fd)

    return fill


def evenly(wanted: list[bytes]) -> list[bytes]:
    """LOOKUPS names, evenly taken from all, again from the start where there are fewer."""
    step = max(1, len(wanted) // LOOKUPS)
    return (wanted[::step] * LOOKUPS)[:LOOKUPS]


def lookup(layers: int, size: int, kind: str) -> Callable[[Path], Bench]:
    """`first`: by a union that has not seen the name; `again`: that has; `negative`: of names that are
    nowhere.
    """

    def prepare(directory: Path) -> Bench:
        stack = Stack(directory, layers, files(size))
        asked = [b"none-%06d.txt" % i for i in range(LOOKUPS)] if kind == "negative" else evenly(names(size))

        def run() -> None:
            union, d = stack.opened()
            with union.lock:
                look = union.lookup
                for name in asked:
                    look(d, name)

        stack.renew()
        if kind == "first":
            return Bench(run, LOOKUPS, stack.renew, stack.close)
        run()
        return Bench(run, LOOKUPS, close=stack.close)

    return prepare


def merge(layers: int, size: int) -> Callable[[Path], Bench]:
    """The first listing of a directory, µs per entry."""

    def prepare(directory: Path) -> Bench:
        stack = Stack(directory, layers, files(size))

        def run() -> None:
            union, d = stack.opened()
            with union.lock:
                seen = sum(1 for _ in union.readdir(d, 0))
            assert seen == size + layers - 1

        return Bench(run, size + layers - 1, stack.renew, stack.close)

    return prepare


def changing(
    count: int, fill: Callable[[list[Path]], None], change: Callable[[Union, Dir, bytes], None]
) -> Callable[[Path], Bench]:
    """`change` on each of `count` lower objects, in a new union over an empty upper."""

    def prepare(directory: Path) -> Bench:
        stack = Stack(directory, 2, fill)

        def run() -> None:
            union, d = stack.opened()
            with union.lock:
                for name in names(count):
                    change(union, d, name)

        return Bench(run, count, stack.renew, stack.close)

    return prepare


def open_for_writing(union: Union, d: Dir, name: bytes) -> None:
    found = union.lookup(d, name)
    assert found
    union.release(union.open(found[0], os.O_WRONLY))


def change_owner(union: Union, d: Dir, name: bytes) -> None:
    found = union.lookup(d, name)
    assert found
    union.chown(found[0], 1, 1)


def unlink(union: Union, d: Dir, name: bytes) -> None:
    union.unlink(d, name)


def rename(union: Union, d: Dir, name: bytes) -> None:
    union.rename(d, name, d, name + b".renamed", 0)


def create_and_unlink(union: Union, d: Dir, name: bytes) -> None:
    made = union.create(d, b"new-" + name, 0o644, os.O_WRONLY, (0, 0, 0))
    union.release(made[2])
    union.unlink(d, b"new-" + name)


def of_kind(make: Callable[[bytes], object]) -> Callable[[list[Path]], None]:
    """CHANGED objects of one kind in the bottom layer."""

    def fill(lowers: list[Path]) -> None:
        for name in names(CHANGED):
            make(os.path.join(os.fsencode(lowers[-1]), b"d", name))

    return fill


KINDS: dict[str, Callable[[bytes], object]] = {
    "directory": os.mkdir,
    "symlink": lambda path: os.symlink(b"somewhere/else", path),
    "fifo": os.mkfifo,
    "device": lambda path: os.mknod(path, stat.S_IFCHR | 0o600, os.makedev(1, 3)),
}

CASES = [
    *(
        Case("lookup", f"{kind}, {layers} layers", lookup(layers, 1000, kind), layers == 500)
        for kind in ("first", "again", "negative")
        for layers in LAYERS
    ),
    *(
        Case("lookup", f"{kind}, {size:,} files", lookup(2, size, kind), size == max(SIZES))
        for kind in ("first", "again", "negative")
        for size in SIZES
    ),
    *(Case("merge", f"{layers} layers", merge(layers, 1000), layers == 500) for layers in LAYERS),
    *(Case("merge", f"{size:,} files", merge(2, size), size == max(SIZES)) for size in SIZES),
    *(
        Case("copy-up", label, changing(count, files(count, size), open_for_writing), size > 1 << 20)
        for label, (size, count) in COPIES.items()
    ),
    *(Case("copy-up", kind, changing(CHANGED, of_kind(make), change_owner)) for kind, make in KINDS.items()),
    Case("remove", "whiteout", changing(CHANGED, files(CHANGED), unlink)),
    Case("remove", "create and unlink", changing(CHANGED, files(CHANGED), create_and_unlink)),
    Case("rename", "lower file", changing(CHANGED, files(CHANGED), rename)),
    Case("rename", "lower directory", changing(CHANGED, of_kind(os.mkdir), rename)),
]
