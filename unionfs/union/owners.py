"""Other owners on the mount than on disk: uidmapping, gidmapping and squash_to_… of fuse-overlayfs.

Only what goes in or out is translated; the layers keep the ids they have, also across copy-up.
"""

from __future__ import annotations

import os
from errno import EINVAL, EPERM

from unionfs.union import Union

TYPE_CHECKING = False
if TYPE_CHECKING:
    from unionfs.union.config import Config
    from unionfs.union.create import Who
    from unionfs.union.data import File
    from unionfs.union.node import Dir, Node

    Ranges = list[tuple[int, int, int]]

OVERFLOW = 65534  # what an id without a place in the mapping is shown as, as the kernel does


def open_union(config: Config) -> Union:
    """The union that `config` describes. Raises ConfigError."""
    mapped = config.uid_map or config.gid_map or config.squash_uid is not None or config.squash_gid is not None
    if config.xattr_permissions:
        from unionfs.union.override import OverrideUnion

        class MappedOverrideUnion(MappedUnion, OverrideUnion):
            """The ids of the xattr are what the mapping is from."""

        return MappedOverrideUnion(config) if mapped else OverrideUnion(config)
    return MappedUnion(config) if mapped else Union(config)


class Ids:
    """One mapping: ids on disk and the ids shown for them.

    ranges  (first id on disk, first id shown, how many); empty: as on disk
    squash  the id that everything shows; then what is made belongs to the daemon
    """

    __slots__ = ("own", "ranges", "squash")

    def __init__(self, ranges: Ranges, squash: int | None, own: int) -> None:
        self.ranges = ranges
        self.squash = squash
        self.own = own

    def shown(self, disk: int) -> int:
        if self.squash is not None:
            return self.squash
        for first, shown, count in self.ranges:
            if first <= disk < first + count:
                return shown + disk - first
        return OVERFLOW if self.ranges else disk

    def on_disk(self, shown: int) -> int:
        """Raises EINVAL for an id that the mapping has no place for, EPERM where only one owner is shown."""
        if self.squash is not None:
            if shown != self.squash:
                raise OSError(EPERM, os.strerror(EPERM))
            return self.own
        for first, start, count in self.ranges:
            if start <= shown < start + count:
                return first + shown - start
        if self.ranges:
            raise OSError(EINVAL, os.strerror(EINVAL))
        return shown


class MappedUnion(Union):
    """A union whose owners are translated on the way in and out."""

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        uid, gid = (0, 0) if config.xattr_permissions else (os.geteuid(), os.getegid())
        self._uids = Ids(config.uid_map, config.squash_uid, uid)
        self._gids = Ids(config.gid_map, config.squash_gid, gid)

    def _shown(self, st: os.stat_result) -> os.stat_result:
        fields: tuple[tuple[int, ...], dict[str, int]] = st.__reduce__()[1]  # type: ignore[assignment]
        plain, more = fields
        return os.stat_result((*plain[:4], self._uids.shown(st.st_uid), self._gids.shown(st.st_gid), *plain[6:]), more)

    def _maker(self, who: Who) -> Who:
        """Ids for a new object. A caller without a place on disk is the daemon itself, not an error."""
        uid, gid, umask = who
        return _or_own(self._uids, uid), _or_own(self._gids, gid), umask

    def lookup(self, directory: Dir, name: bytes) -> tuple[Node, os.stat_result] | None:
        found = super().lookup(directory, name)
        return None if found is None else (found[0], self._shown(found[1]))

    def stat(self, node: Node) -> os.stat_result:
        return self._shown(super().stat(node))

    def create(self, directory: Dir, name: bytes, mode: int, flags: int,
               who: Who) -> tuple[Node, os.stat_result, File]:
        node, st, file = super().create(directory, name, mode, flags, self._maker(who))
        return node, self._shown(st), file

    def tmpfile(self, directory: Dir, mode: int, flags: int, who: Who) -> tuple[Node, os.stat_result, File]:
        node, st, file = super().tmpfile(directory, mode, flags, self._maker(who))
        return node, self._shown(st), file

    def mknod(self, directory: Dir, name: bytes, mode: int, rdev: int, who: Who) -> tuple[Node, os.stat_result]:
        node, st = super().mknod(directory, name, mode, rdev, self._maker(who))
        return node, self._shown(st)

    def mkdir(self, directory: Dir, name: bytes, mode: int, who: Who) -> tuple[Node, os.stat_result]:
        node, st = super().mkdir(directory, name, mode, self._maker(who))
        return node, self._shown(st)

    def symlink(self, directory: Dir, name: bytes, target: bytes, who: Who) -> tuple[Node, os.stat_result]:
        node, st = super().symlink(directory, name, target, self._maker(who))
        return node, self._shown(st)

    def link(self, node: Node, directory: Dir, name: bytes) -> os.stat_result:
        return self._shown(super().link(node, directory, name))

    def chown(self, node: Node, uid: int, gid: int) -> None:
        """-1 leaves an id as it is."""
        uid = uid if uid == -1 else self._uids.on_disk(uid)
        super().chown(node, uid, gid if gid == -1 else self._gids.on_disk(gid))


def _or_own(ids: Ids, shown: int) -> int:
    try:
        return ids.on_disk(shown)
    except OSError:
        return ids.own
