"""A union in this process over described layers: no mount, no front end.

    with Core(base, [{"f": "top"}, {"f": "bottom"}]) as core:
        core.union.chmod(core.node("f"), 0o600)
        assert core.view() == core.fresh_view()
"""

from __future__ import annotations

import os
import stat
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from types import TracebackType

from tests.lib import stackcheck, tree
from tests.lib.layers import Layer, build
from unionfs.union import Config, Dir, Node, Union

ROOT = (0, 0, 0o022)
View = dict[bytes, dict[str, object]]


class Core:
    """The layers on disk and an open Union on them. options: further fields of Config.

    stray_whiteouts: the upper is described with whiteouts of nothing.
    """

    def __init__(
        self,
        base: Path,
        lowers: Sequence[Layer],
        upper: Layer | None = None,
        data: Sequence[Layer] = (),
        stray_whiteouts: bool = False,
        **options: object,
    ) -> None:
        self.base, self.options, self.stray_whiteouts = base, options, stray_whiteouts
        self.lowers = [str(base / f"l{i}") for i in range(len(lowers))]
        self.data = [str(base / f"d{i}") for i in range(len(data))]
        self.upper, self.work = str(base / "u"), str(base / "w")
        for path, layer in zip(self.lowers + self.data, [*lowers, *data], strict=True):
            build(path, layer)
        build(self.upper, upper or {})
        os.makedirs(self.work)
        self.before = [tree.snapshot(path, exact=True) for path in self.lowers + self.data]
        self.met: set[Node] = set()  # what a front end would have to forget
        self.union = self.open()

    def open(self, **options: object) -> Union:
        """Another Union on the same layers; the one before has to be closed."""
        config = Config(
            lower=[os.fsencode(path) for path in self.lowers],
            data=[os.fsencode(path) for path in self.data],
            upper=os.fsencode(self.upper),
            work=os.fsencode(self.work),
            **{**self.options, **options},  # type: ignore[arg-type]
        )
        return Union(config)

    def __enter__(self) -> Core:
        self.union.lock.acquire()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, _error: BaseException | None, _traceback: TracebackType | None
    ) -> None:
        self.close()
        if kind is None:
            assert self.faults() == []

    def close(self) -> None:
        for node in self.met:
            self.union.forget(node)
        self.met.clear()
        self.union.lock.release()
        self.union.close()

    def reopen(self) -> None:
        """As a remount: everything is read from disk again."""
        self.close()
        self.union = self.open()
        self.union.lock.acquire()

    def crash(self) -> None:
        """As a daemon that dies: nothing waiting is done, the descriptors are closed as the kernel would close them."""
        self.union.unsettled.clear()
        self.reopen()

    def faults(self) -> list[str]:
        """Of the layers on disk, once nothing has them open."""
        stray = self.stray_whiteouts
        form = str(self.options.get("whiteout", "device"))
        found = stackcheck.check(self.lowers + self.data, self.upper, self.work, form=form, stray_whiteouts=stray)
        for path, before in zip(self.lowers + self.data, self.before, strict=True):
            found += tree.diff(before, tree.snapshot(path, exact=True), names="before after")
        return found

    # -- names ------------------------------------------------------------------------------------------------------

    def find(self, path: str | bytes) -> Node | None:
        node: Node = self.union.root
        for name in os.fsencode(path).split(b"/"):
            if not isinstance(node, Dir):
                return None
            found = self.union.lookup(node, name) if name else (node, None)
            if found is None:
                return None
            node = found[0]
            self.met.add(node)
        return node

    def node(self, path: str | bytes) -> Node:
        found = self.find(path)
        assert found is not None, f"{path!r} is not there"
        return found

    def dir(self, path: str | bytes = "") -> Dir:
        found = self.node(path)
        assert isinstance(found, Dir), f"{path!r} is no directory"
        return found

    def at(self, path: str) -> tuple[Dir, bytes]:
        """The directory that a path leads to, and its last name."""
        above, _, name = os.fsencode(path).rpartition(b"/")
        return self.dir(above), name

    def ls(self, path: str | bytes = "") -> list[str]:
        return sorted(os.fsdecode(entry[0]) for entry in self.union.readdir(self.dir(path), 0))

    # -- content ----------------------------------------------------------------------------------------------------

    def read(self, path: str | bytes) -> bytes:
        file = self.union.open(self.node(path), os.O_RDONLY)
        try:
            return os.pread(file.fileno(), 1 << 20, 0)
        finally:
            self.union.release(file)

    def write(self, path: str | bytes, content: bytes, flags: int = 0) -> None:
        file = self.union.open(self.node(path), os.O_RDWR | flags)
        try:
            os.pwrite(file.fileno(), content, 0)
        finally:
            self.union.release(file)

    # -- the whole tree -----------------------------------------------------------------------------------------------

    def view(self) -> View:
        """All that the union shows, by path, having checked that lookup and readdir agree."""
        return dict(sorted(self._view(b"", self.union.root)))

    def _view(self, path: bytes, node: Node) -> Iterator[tuple[bytes, dict[str, object]]]:
        yield path, self._facts(path, node)
        if not isinstance(node, Dir):
            return
        listed = list(self.union.readdir(node, 0))
        assert len({entry[0] for entry in listed}) == len(listed), f"{path!r} lists a name twice"
        for name, ino, dtype, _next in listed:
            found = self.union.lookup(node, name)
            assert found is not None, f"{path!r} lists {name!r}, but it cannot be looked up"
            assert (found[0].ino, found[0].kind >> 12) == (ino, dtype), f"{path!r}/{name!r}: readdir and stat differ"
            self.met.add(found[0])
            yield from self._view(path + b"/" + name if path else name, found[0])

    def _facts(self, path: bytes, node: Node) -> dict[str, object]:
        st = self.union.stat(node)
        facts: dict[str, object] = {"mode": oct(st.st_mode), "owner": (st.st_uid, st.st_gid), "ino": node.ino}
        if not node.is_dir:
            facts.update(nlink=self.union.nlink(node, st), mtime=st.st_mtime_ns, size=st.st_size)
        if stat.S_ISREG(node.kind):
            facts["content"] = self.read(path)
        if stat.S_ISLNK(node.kind):
            facts["target"] = self.union.readlink(node)
        facts["xattrs"] = {key: self.union.getxattr(node, key) for key in sorted(self.union.listxattr(node))}
        return facts


def differences(one: View, two: View, ignore: Collection[str] = ()) -> list[str]:
    """What differs, one line each. ignore: names of facts."""
    lines = [f"{path!r}: only in one" for path in sorted(one.keys() ^ two.keys())]
    for path in sorted(one.keys() & two.keys()):
        a, b = one[path], two[path]
        keys = sorted((a.keys() | b.keys()) - set(ignore))
        lines += [f"{path!r}: {key} {a.get(key)!r} != {b.get(key)!r}" for key in keys if a.get(key) != b.get(key)]
    return lines
