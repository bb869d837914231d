"""Owners, modes and types from an xattr instead of the inode: `xattr_permissions=2` (see statmark.py).

For a daemon that cannot give files away: on disk everything is its own. What has no such xattr, as symlinks cannot, is
shown as it is on disk; but what belongs to the daemon itself is root's then, as it would be in a user namespace.
Only on what belongs to the daemon or to root the xattr is believed: anybody can write one on a file of his own, and
root's mount would make that a set-user-ID file of root's.
This only wraps the verbs of the union: a union without the option knows nothing of it.
"""

from __future__ import annotations

import os
from errno import ENODATA, EPERM
from stat import S_IFCHR, S_IFDIR, S_IFLNK, S_IFMT, S_IFREG, S_IMODE, S_ISGID, S_ISUID, S_IXGRP

from unionfs.layer import verbs
from unionfs.union import Union, statmark
from unionfs.union import lookup as _lookup
from unionfs.union.config import Config, ConfigError
from unionfs.union.copyup import copy_up
from unionfs.union.marks import WHITEOUT_RDEV
from unionfs.union.marks import read as read_mark
from unionfs.union.merge import LAYER_MASK, LAYER_SHIFT

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from unionfs.union.create import Who
    from unionfs.union.data import File
    from unionfs.union.node import Dir, Node

_CAPABILITY = b"security.capability"
_CARRIERS = (S_IFREG, S_IFDIR)  # what can have a `user.` xattr
_DT_REG = S_IFREG >> 12
_OURS = (0, 0, 0)  # what is made belongs to the daemon, with exactly the mode asked for
_FILE, _DIRECTORY = 0o600, 0o700  # modes on disk: whatever is shown, the daemon has to get in


class OverrideUnion(Union):
    """A union that shows what the xattr says, and keeps there what is set."""

    def __init__(self, config: Config) -> None:
        config.acl = False  # an ACL on disk would speak of the wrong owners, and change the mode on disk
        super().__init__(config)
        self._daemon = os.geteuid(), os.getegid()
        self._believed = (0, os.geteuid())
        self._keys = [statmark.KEY]
        if any(self._has_old_key(layer.fd) for layer in self.layers.values()):
            self._keys.append(statmark.OLD_KEY)
        if not self.readonly:
            self._check_upper()

    @staticmethod
    def _has_old_key(fd: int) -> bool:
        return read_mark(fd, b"", statmark.OLD_KEY) is not None

    def _check_upper(self) -> None:
        try:
            verbs.setxattr(self.work_fd, b"", statmark.KEY, b"0:0:0700:dir")
        except OSError as error:
            self.close()
            raise ConfigError(f"xattr_permissions=2 keeps owners in user.* extended attributes, and the file system of "
                              f"upperdir has none: {error.strerror}") from None

    # --- what is shown ----------------------------------------------------------------------------------------------

    def _mark(self, fd: int, name: bytes) -> bytes | None:
        for key in self._keys:
            if (text := read_mark(fd, name, key)) is not None:
                return text
        return None

    def _true(self, node: Node, st: os.stat_result) -> os.stat_result:
        """What the image means, for what the disk says."""
        if node.kind in _CARRIERS and st.st_uid in self._believed:
            text = self._mark(*_lookup.place(self, node))
            if text is not None:
                return statmark.shown(st, text)
        return statmark.unmarked(st, *self._daemon)

    def _stat(self, node: Node) -> os.stat_result:
        """As `stat`, whatever a subclass makes of the ids."""
        return self._true(node, _lookup.stat(self, node))

    def lookup(self, directory: Dir, name: bytes) -> tuple[Node, os.stat_result] | None:
        found = super().lookup(directory, name)
        return None if found is None else (found[0], self._true(*found))

    def stat(self, node: Node) -> os.stat_result:
        return self._stat(node)

    def readdir(self, directory: Dir, offset: int) -> Iterator[tuple[bytes, int, int, int]]:
        for name, ino, dtype, after in super().readdir(directory, offset):
            yield name, ino, self._listed_type(directory, name) if dtype == _DT_REG else dtype, after

    def _listed_type(self, directory: Dir, name: bytes) -> int:
        """A regular file may stand for a device."""
        layer = _lookup.entry(self, directory, name) >> LAYER_SHIFT & LAYER_MASK
        fd = self.part_fd(directory, layer)
        try:
            text = self._mark(fd, name)
            if text is None or text.count(b":") < 3 or text.rpartition(b":")[2] == b"file":
                return _DT_REG
            st = verbs.stat(fd, name)
            return statmark.shown(st, text).st_mode >> 12 if st.st_uid in self._believed else _DT_REG
        except FileNotFoundError:
            return _DT_REG  # gone since the listing was made

    # --- what is set ------------------------------------------------------------------------------------------------

    def _keep(self, node: Node, mode: int, uid: int, gid: int, rdev: int = 0) -> None:
        verbs.setxattr(*_lookup.place(self, node), statmark.KEY, statmark.value(mode, uid, gid, rdev))
        node.bare = False

    def _to_change(self, node: Node) -> os.stat_result:
        """What is shown of a node whose xattr is to be written: one on somebody else's file would not be believed."""
        copy_up(self, node)
        disk = _lookup.stat(self, node)
        st = self._true(node, disk)
        if disk.st_uid not in self._believed:
            verbs.chown(*_lookup.place(self, node), *self._daemon)
        return st

    def chmod(self, node: Node, mode: int) -> None:
        if node.kind not in _CARRIERS:
            super().chmod(node, mode)
            return
        st = self._to_change(node)
        self._keep(node, S_IFMT(st.st_mode) | S_IMODE(mode), st.st_uid, st.st_gid, st.st_rdev)

    def chown(self, node: Node, uid: int, gid: int) -> None:
        """-1 leaves an id as it is. A symlink has nowhere to keep an owner: it stays root's, without an error."""
        if node.kind not in _CARRIERS:
            self._chown_on_disk(node, uid, gid)
            return
        st = self._to_change(node)
        mode = st.st_mode if node.is_dir else _without_privilege(st.st_mode)
        self._keep(node, mode, st.st_uid if uid == -1 else uid, st.st_gid if gid == -1 else gid, st.st_rdev)
        if not node.is_dir:
            self._drop_capabilities(node)

    def _chown_on_disk(self, node: Node, uid: int, gid: int) -> None:
        try:
            super().chown(node, uid, gid)
        except PermissionError:
            if node.kind != S_IFLNK:
                raise

    def kill_priv(self, node: Node) -> None:
        if node.kind != S_IFREG:
            return
        mode = self._stat(node).st_mode
        if (left := _without_privilege(mode)) != mode:
            self.chmod(node, left)
        self._drop_capabilities(node)

    def _drop_capabilities(self, node: Node) -> None:
        if _CAPABILITY in self.listxattr(node):
            self.removexattr(node, _CAPABILITY)

    # --- what is made -----------------------------------------------------------------------------------------------

    def _dress(self, directory: Dir, node: Node, mode: int, who: Who, rdev: int = 0) -> os.stat_result:
        """Give a new object owner and mode, as a file system would: umask, and what a setgid directory passes on."""
        uid, gid, umask = who
        above = self._stat(directory)
        mode = S_IFMT(mode) | S_IMODE(mode) & ~umask
        if above.st_mode & S_ISGID:
            if node.is_dir:
                mode |= S_ISGID
            elif uid and gid != above.st_gid and mode & S_IXGRP:
                mode &= ~S_ISGID
            gid = above.st_gid
        self._keep(node, mode, uid, gid, rdev)
        return self._stat(node)

    def create(self, directory: Dir, name: bytes, mode: int, flags: int,
               who: Who) -> tuple[Node, os.stat_result, File]:
        node, _, file = super().create(directory, name, _FILE, flags, _OURS)
        return node, self._dress(directory, node, S_IFREG | S_IMODE(mode), who), file

    def tmpfile(self, directory: Dir, mode: int, flags: int, who: Who) -> tuple[Node, os.stat_result, File]:
        node, _, file = super().tmpfile(directory, _FILE, flags, _OURS)
        return node, self._dress(directory, node, S_IFREG | S_IMODE(mode), who), file

    def mkdir(self, directory: Dir, name: bytes, mode: int, who: Who) -> tuple[Node, os.stat_result]:
        node, _ = super().mkdir(directory, name, _DIRECTORY, _OURS)
        return node, self._dress(directory, node, S_IFDIR | S_IMODE(mode), who)

    def mknod(self, directory: Dir, name: bytes, mode: int, rdev: int, who: Who) -> tuple[Node, os.stat_result]:
        """A regular file stands for it. EPERM for device 0:0, which would be a whiteout."""
        if S_IFMT(mode) == S_IFCHR and rdev == WHITEOUT_RDEV:
            raise OSError(EPERM, os.strerror(EPERM), name)
        node, _ = super().mknod(directory, name, S_IFREG | _FILE, 0, _OURS)
        return node, self._dress(directory, node, mode if S_IFMT(mode) else S_IFREG | mode, who, rdev)

    def symlink(self, directory: Dir, name: bytes, target: bytes, who: Who) -> tuple[Node, os.stat_result]:
        node, _ = super().symlink(directory, name, target, _OURS)
        self._chown_on_disk(node, *who[:2])
        return node, self._stat(node)

    def link(self, node: Node, directory: Dir, name: bytes) -> os.stat_result:
        return self._true(node, super().link(node, directory, name))

    # --- xattrs -----------------------------------------------------------------------------------------------------

    def getxattr(self, node: Node, key: bytes) -> bytes:
        return super().getxattr(node, _required(key, ENODATA))

    def listxattr(self, node: Node) -> list[bytes]:
        return [key for disk in super().listxattr(node) if (key := statmark.to_user(disk)) is not None]

    def setxattr(self, node: Node, key: bytes, value: bytes, flags: int) -> None:
        super().setxattr(node, _required(key, EPERM), value, flags)

    def removexattr(self, node: Node, key: bytes) -> None:
        super().removexattr(node, _required(key, ENODATA))


def _without_privilege(mode: int) -> int:
    """What a change of owner and a write take away: setuid, and setgid of what the group can execute."""
    return mode & ~S_ISUID & ~(S_ISGID if mode & S_IXGRP else 0)


def _required(key: bytes, number: int) -> bytes:
    disk = statmark.to_disk(key)
    if disk is None:
        raise OSError(number, os.strerror(number), key)
    return disk
