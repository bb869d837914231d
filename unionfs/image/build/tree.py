"""A stack of layers as a tree to read and to write by path: the union itself, in this process, without a mount.

Symlinks are followed inside the tree only, "/" being its root. Paths are bytes, relative to the root or absolute.
"""

from __future__ import annotations

import os
import stat
from errno import ELOOP, ENODATA, ENOENT, ENOTDIR, EOPNOTSUPP

from unionfs.union import Config
from unionfs.union.owners import open_union

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Generator, Iterator
    from types import TracebackType

    from unionfs.union.node import Dir, Node

_MAX_LINKS = 40
_CHUNK = 1 << 20
_ROOT = (0, 0, 0)
_ACL = b"system.posix_acl_"
_KEPT_XATTRS = (b"user.", b"security.capability", _ACL)


class Tree:
    """lowers: top first. upper, work: empty for reading only. rootless: owners and modes are in xattrs, as in the store
    of an ordinary user. A context manager. Raises ConfigError, OSError.
    """

    def __init__(self, lowers: list[str], upper: str = "", work: str = "", *, rootless: bool = False) -> None:
        self.rootless = rootless
        self.union = open_union(Config(
            lower=[os.fsencode(path) for path in lowers], upper=os.fsencode(upper) or None,
            work=os.fsencode(work) or None, redirect_dir="off", metacopy=False, index=False, sync=False,
            xattr_permissions=2 if rootless else 0,
        ))  # fmt: skip

    def __enter__(self) -> Tree:
        self.union.lock.acquire()       # one thread, one user: held for as long as the tree is used
        self._umask = os.umask(0)       # the union changes it as it needs
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        os.umask(self._umask)
        self.union.lock.release()
        self.union.close()

    # reading

    def find(self, path: bytes, *, follow: bool = True) -> tuple[Node, os.stat_result]:
        """The object at a path. OSError: ENOENT, ENOTDIR, ELOOP."""
        node, st, rest = self._walk(path, follow)
        if rest:
            raise OSError(ENOENT, os.strerror(ENOENT), path)
        return node, st

    def exists(self, path: bytes) -> bool:
        """Whether there is something at the path."""
        return not self._walk(path, True)[2]

    def _walk(self, path: bytes, follow: bool) -> tuple[Node, os.stat_result, list[bytes]]:
        """As far as the path exists: (object, its stat, the names that do not exist)."""
        union = self.union
        todo = _names(path)[::-1]
        way: list[tuple[Node, os.stat_result]] = [(union.root, union.stat(union.root))]
        names: list[bytes] = []
        links = 0
        while todo:
            name = todo.pop()
            if name == b"..":
                del names[-1:]
                way = way[: len(names) + 1]
                continue
            here = way[-1][0]
            if not here.is_dir:
                raise OSError(ENOTDIR, os.strerror(ENOTDIR), path)
            found = union.lookup(here, name)  # type: ignore[arg-type]
            if found is None:
                return *way[-1], [name, *todo[::-1]]
            if stat.S_ISLNK(found[1].st_mode) and (todo or follow):
                links += 1
                if links > _MAX_LINKS:
                    raise OSError(ELOOP, os.strerror(ELOOP), path)
                target = union.readlink(found[0])
                if target.startswith(b"/"):
                    names, way = [], way[:1]
                todo += _names(target)[::-1]
                continue
            way.append(found)
            names.append(name)
        return *way[-1], []

    def names(self, directory: Node) -> list[bytes]:
        """What a directory holds, sorted."""
        return sorted(entry[0] for entry in self.union.readdir(directory, 0))  # type: ignore[arg-type]

    def child(self, directory: Node, name: bytes) -> tuple[Node, os.stat_result]:
        found = self.union.lookup(directory, name)  # type: ignore[arg-type]
        if found is None:
            raise OSError(ENOENT, os.strerror(ENOENT), name)
        return found

    def data(self, node: Node) -> Generator[bytes, None, None]:
        """A file's bytes."""
        file = self.union.open(node, os.O_RDONLY)
        try:
            offset = 0
            while piece := os.pread(file.fileno(), _CHUNK, offset):
                yield piece
                offset += len(piece)
        finally:
            self.union.release(file)

    def readlink(self, node: Node) -> bytes:
        return self.union.readlink(node)

    def xattrs(self, node: Node) -> dict[bytes, bytes]:
        """Those that images carry."""
        try:
            keys = [key for key in self.union.listxattr(node) if key.startswith(_KEPT_XATTRS)]
            return {key: self.union.getxattr(node, key) for key in sorted(keys)}
        except OSError as exc:
            if exc.errno in (ENODATA, EOPNOTSUPP):
                return {}
            raise

    # writing

    def make_directories(self, path: bytes, owner: tuple[int, int] = (0, 0), mode: int = 0o755) -> Dir:
        """The directory at a path; what of it is missing is made."""
        node, _, rest = self._walk(path, True)
        for name in rest:
            if name == b"..":
                raise OSError(ENOENT, os.strerror(ENOENT), path)
            node, _ = self.union.mkdir(node, name, 0o700, _ROOT)  # type: ignore[arg-type]
            self.attributes(node, owner, mode)
        if not node.is_dir:
            raise OSError(ENOTDIR, os.strerror(ENOTDIR), path)
        return node  # type: ignore[return-value]

    def attributes(
        self, node: Node, owner: tuple[int, int], mode: int, xattrs: dict[bytes, bytes] | None = None
    ) -> None:
        st = self.union.stat(node)
        if (st.st_uid, st.st_gid) != owner:
            self.union.chown(node, *owner)
        if not stat.S_ISLNK(node.kind):
            self.union.chmod(node, mode)
        for key, value in (xattrs or {}).items():
            if self.rootless and key.startswith(_ACL):
                continue  # there it would speak of the wrong owners
            self.union.setxattr(node, key, value, 0)

    def write(self, directory: Dir, name: bytes, data: Iterator[bytes]) -> Node:
        """A new file with these bytes; all zeros become holes."""
        node, _, file = self.union.create(directory, name, 0o600, os.O_WRONLY, _ROOT)
        try:
            fd, offset = file.fileno(), 0
            for piece in data:
                if piece.count(0) != len(piece):
                    os.pwrite(fd, piece, offset)
                offset += len(piece)
            os.ftruncate(fd, offset)
        finally:
            self.union.release(file)
        return node


def _names(path: bytes) -> list[bytes]:
    return [name for name in path.split(b"/") if name not in (b"", b".")]
