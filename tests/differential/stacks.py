"""Random stacks of layers: files, directories, links, whiteouts, opaque marks, conflicts of type between layers."""

from __future__ import annotations

import stat
from typing import Any

from hypothesis import strategies as st

from tests.lib.layers import DEVICE, XATTR, Dir, Entry, File, Layer, Link, Special, Symlink, Whiteout

NAMES = ["a", "b", "d", "é\udcff"]
_TIMES = st.integers(0, 10**9).map(lambda n: 1_000_000_000 * 10**9 + n)
_MODES = st.sampled_from([0o644, 0o600, 0o666, 0o4755, 0o444, 0o2755])
_OWNERS = st.sampled_from([0, 0, 4001, 4002])


@st.composite
def _leaf(draw: st.DrawFn, simple: bool) -> Entry:
    kind = draw(st.sampled_from(["file", "file", "file", "symlink", "fifo", "fifo" if simple else "char"]))
    common: dict[str, Any] = {"mtime": draw(_TIMES), "uid": draw(_OWNERS), "gid": draw(_OWNERS)}
    if kind == "file":
        content = draw(st.sampled_from([b"", b"short", b"0123456789" * 10, b"x" * 5000]))
        xattrs = draw(st.sampled_from([{}, {}, {"user.low": b"1"}]))
        return File(content, mode=draw(_MODES), xattrs=xattrs, **common)
    if kind == "symlink":
        return Symlink(draw(st.sampled_from(["a", "d/b", "../a", "nowhere"])), **common)
    if kind == "fifo":
        return Special(stat.S_IFIFO, mode=0o640, **common)
    return Special(stat.S_IFCHR, 0x103, mode=0o666, **common)


class _Filler:
    """Fills one layer. `below` are the directories that the layers under it show; `simple`: no devices, no links."""

    def __init__(self, draw: st.DrawFn, below: set[str], upper: bool, simple: bool) -> None:
        self.draw, self.below, self.simple = draw, below, simple
        # The kernel reads whiteouts in xattr form in lowers only.
        self.forms = [DEVICE] if upper else [DEVICE, DEVICE, DEVICE, XATTR]
        self.made: dict[str, Entry] = {"": Dir(mtime=draw(_TIMES))}

    def fill(self, prefix: str, depth: int, merged: bool) -> None:
        """Whiteouts only where the directory merges: the kernel lists others as files (see docs/compat.md)."""
        kinds = ["none", "leaf", *(["dir", "dir"] if depth < 2 else []), *(["white"] if merged else [])]
        for name in NAMES:
            kind = self.draw(st.sampled_from(kinds))
            path = prefix + name
            if kind == "leaf":
                self.made[path] = self.leaf()
            elif kind == "white":
                self.made[path] = Whiteout(self.draw(st.sampled_from(self.forms)))
            elif kind == "dir":
                self.directory(path, depth, merged)

    def leaf(self) -> Entry:
        files = [path for path, entry in self.made.items() if isinstance(entry, File)]
        if files and not self.simple and self.draw(st.integers(0, 3)) == 0:
            return Link(self.draw(st.sampled_from(files)))
        return self.draw(_leaf(self.simple))

    def directory(self, path: str, depth: int, parent_merged: bool) -> None:
        draw = self.draw
        below = parent_merged and path in self.below
        merged = below and draw(st.integers(0, 4)) > 0
        mode = draw(st.sampled_from([0o755, 0o700, 0o777, 0o2775, 0o1777]))
        opaque = below and not merged
        self.made[path] = Dir(opaque=opaque, mode=mode, uid=draw(_OWNERS), mtime=draw(_TIMES))
        self.fill(path + "/", depth + 1, merged)

    def shown(self) -> set[str]:
        """The directories that are seen with this layer on top."""
        seen = set(self.below)
        for path, entry in self.made.items():
            if not isinstance(entry, Dir) or entry.opaque:
                seen = {other for other in seen if other != path and not other.startswith(path + "/")}
            if isinstance(entry, Dir):
                seen.add(path)
        return seen


@st.composite
def stacks(draw: st.DrawFn, simple: bool = False) -> tuple[list[Layer], Layer | None]:
    """(lowers from the top, upper's content or None)."""
    with_upper = draw(st.integers(0, 3)) == 0
    made: list[Layer] = []
    below: set[str] = set()
    count = draw(st.integers(1, 3))
    for at in range(count + with_upper):
        filler = _Filler(draw, below, upper=at == count, simple=simple)
        filler.fill("", 0, merged=bool(made))
        below = filler.shown()
        made.insert(0, filler.made)
    return (made[1:], made[0]) if with_upper else (made, None)
