"""The open stack: its layers, what its upper file system can do, and the few tables that all rules share."""

from __future__ import annotations

import os
import resource
import threading
from errno import EROFS, ESTALE

from unionfs import libc
from unionfs.layer import verbs
from unionfs.union import checks, marks, settle
from unionfs.union.index import Index
from unionfs.union.marks import Marks
from unionfs.union.node import UPPER, Dir, Node

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from unionfs.layer.tree import Layer
    from unionfs.union.config import Config

SHARED_WHITEOUT = b"#whiteout"  # in work, the inode that all whiteouts of the device form are links to
_FOREIGN_BITS = 8  # inode numbers of layers on other file systems carry the number of theirs in the top bits
_KEPT_NAMES = 100_000  # names in listings that are kept although they could be read again, about 14 MB
_LISTING_ITSELF = 4  # names that a listing counts for besides its own


class Stack:
    """State shared by the union's modules. Everything here is touched only with `lock` held.

    layers      by index: 0 the upper (if any), 1… the lowers from the top, then the data-only ones
    bottom      index of the last lower that takes part in merging; deepest: of the last, data-only ones included
    hard_links  inode → node, for files with several names: lower ones by the number shown, upper ones by upper_key();
                link_keys: node → its keys there; hidden_links: how many of a lower file's names this mount has removed
    """

    def __init__(self, config: Config) -> None:
        """Opens, checks and locks everything. Raises ConfigError; then nothing stays open or changed."""
        self.config = config
        self.lock = threading.Lock()
        self.layers: dict[int, Layer] = {}
        self.held: list[int] = []  # descriptors that keep the locks on upper and work
        self.hard_links: dict[int, Node] = {}
        self.link_keys: dict[Node, list[int]] = {}
        self.hidden_links: dict[int, int] = {}
        self.counters = dict.fromkeys(("copy_ups", "copied_bytes", "whiteouts", "merges"), 0)
        self.emit: Callable[..., None] | None = None
        self.fd_count = 0
        self.fd_limit = max(16, min(4096, resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 4))
        self._open_dirs: dict[Dir, None] = {}  # those with open descriptors, first opened first
        self._listed: dict[Dir, int] = {}  # those whose listing may be dropped, oldest first: what it counts for
        self._listed_names = 0
        self.defer_sync = False  # set by a front end that calls settle() from a thread of its own
        self.unsettled: dict[Node, int] = {}
        self.settling: dict[Node, int] = {}
        self.copying: set[Node] = set()  # their copy-up runs, perhaps with the lock released
        self.lingering: set[Node] = set()  # given back by the front end, but something still needs them
        self.work_fd = -1
        self.index: Index | None = None
        self.umask = -1
        self.can_impersonate = False
        self.copied = threading.Condition(self.lock)  # told when a copy-up or a common sync ends
        self.serial = 0
        self.follow_redirects = config.redirect_dir != "nofollow"  # off: as the kernel by default
        try:
            self._open()
        except BaseException:
            self.close()
            raise

    def _open(self) -> None:
        config = self.config
        checks.check_options(config)
        for index, path in enumerate(config.lower + config.data, 1):
            self.layers[index] = checks.open_layer(path, index, "lowerdir")
        self.bottom, self.deepest = len(config.lower), len(config.lower) + len(config.data)
        if config.upper is not None:
            self.layers[UPPER] = checks.open_layer(config.upper, UPPER, "upperdir")
        checks.check_overlaps(self.layers, config)
        user = config.userxattr
        self.marks = Marks(not checks.sees_trusted_xattrs() if user is None else user)
        self.readonly = config.upper is None or config.readonly
        self.abilities = checks.Abilities()
        if not self.readonly:
            self._open_work()
        self._number_file_systems()
        merged = [index for index in sorted(self.layers) if index <= self.bottom]
        self.root = Dir(0, merged, {index: b"" for index in merged if index}, None, b"")
        self._read_root_marks(merged)
        if not self.readonly and config.index and self.abilities.handles:
            self.index = Index.load(self)

    def _open_work(self) -> None:
        self.held = checks.lock_upper(self.config)
        self.work_fd = checks.prepare_work(self.layers[UPPER], self.config)
        self.abilities = checks.probe(self.work_fd, self.layers[UPPER], self.marks, self.config)
        self.can_impersonate = os.geteuid() == 0
        if self.can_impersonate:
            try:
                libc.keep_capabilities_across_setfsuid()
            except PermissionError:
                self.can_impersonate = False

    def _number_file_systems(self) -> None:
        devices: dict[int, int] = {}
        self.uuids: dict[bytes, int] = {}
        for index in sorted(self.layers):
            layer = self.layers[index]
            if layer.dev not in devices:
                devices[layer.dev] = len(devices)
                uuid = checks.fs_uuid(layer.fd)
                self.uuids.setdefault(uuid, devices[layer.dev])
            layer.fsid = devices[layer.dev]
        self._foreign_shift = 64 - max(_FOREIGN_BITS, (len(devices) - 1).bit_length())
        self.single_fs = len(devices) == 1 or not self.config.xino

    def _read_root_marks(self, merged: list[int]) -> None:
        """The root's own marks: it may be impure, and an opaque root hides the lowers, as in the kernel."""
        for count, index in enumerate(merged, 1):
            fd = self.layers[index].fd
            found = marks.present(fd, b"", self.marks.prefix)
            if index == UPPER:
                self.root.impure = self.marks.impure in found
            opaque = self.marks.opaque in found and marks.read(fd, b"", self.marks.opaque) == b"y"
            if opaque or (self.aufs_in(index) and verbs.exists(fd, marks.AUFS_OPAQUE)):
                del self.root.layers[count:]
                break
        top = next((index for index in self.root.layers if index), UPPER)
        self.root.ino = self.inode_number(top, os.stat(self.layers[top].fd).st_ino)

    def close(self) -> None:
        """Let go of everything. The upper and work can be used by another mount from now on."""
        if self.unsettled:
            with self.lock:
                settle.settle(self)
        for directory in list(self._open_dirs):
            self._close_fds(directory)
        for open_layer in self.layers.values():
            open_layer.close()
        self.layers.clear()
        if self.index is not None:
            self.index.close()
        if self.work_fd >= 0:
            if verbs.exists(self.work_fd, SHARED_WHITEOUT):
                verbs.unlink(self.work_fd, SHARED_WHITEOUT)
            os.close(self.work_fd)
            self.work_fd = -1
        for fd in self.held:
            os.close(fd)
        self.held = []

    # --- numbers -----------------------------------------------------------------------------------------------

    def inode_number(self, layer: int, ino: int) -> int:
        """The inode number shown for an object that has `ino` in a layer. One file system: the same number."""
        if self.single_fs:
            return ino
        return ino ^ (self.layers[layer].fsid << self._foreign_shift)

    def origin_number(self, fd: int, name: bytes) -> int | None:
        """The number of the lower object that an upper one was copied from, if its mark says so."""
        value = marks.read(fd, name, self.marks.origin)
        origin = marks.unpack_origin(value) if value else None
        if origin is None:
            return None
        kind, handle, uuid = origin
        ino, fsid = marks.inode_of(kind, handle), self.uuids.get(uuid)
        if ino is None or fsid is None:
            return None
        return ino if self.single_fs else ino ^ (fsid << self._foreign_shift)

    def origin_mark(self, fd: int, name: bytes | None, layer: int) -> bytes | None:
        """The mark that names an object of a lower layer as an origin; None where its file system has no handles."""
        try:
            kind, handle = verbs.handle(fd, name)
        except OSError:
            return None
        fsid = self.layers[layer].fsid
        uuid = next((uuid for uuid, number in self.uuids.items() if number == fsid), None)
        return None if uuid is None else marks.pack_origin(kind, handle, uuid)

    def indexed_node(self, directory: Dir, name: bytes, layer: int, ino: int, kind: int, fd: int) -> Node | None:
        """The upper node that the index holds for a lower hard link, if one of its names was copied up before."""
        return None if self.index is None else self.index.node(self, directory, name, layer, ino, kind, fd)

    # --- parts of directories and their descriptors -------------------------------------------------------------

    def part_fd(self, directory: Dir, layer: int) -> int:
        """Descriptor of a directory's part, perhaps O_PATH. Good until `trim`, that is while the lock is held."""
        fd = directory.fds.get(layer, -1)
        if fd >= 0:
            return fd
        if directory.removed and layer == UPPER:
            raise OSError(ESTALE, os.strerror(ESTALE))
        path = self.upper_path(directory) if layer == UPPER else directory.paths[layer]
        fd = self.layers[layer].open_dir(path)
        self.keep_part(directory, layer, fd)
        return fd

    def keep_part(self, directory: Dir, layer: int, fd: int) -> None:
        """Hand over an open descriptor of a part."""
        directory.fds[layer] = fd
        self._open_dirs[directory] = None
        self.fd_count += 1

    def upper_path(self, directory: Dir) -> bytes:
        """The path of a directory's upper part, which moves with it and with those above."""
        names = []
        while directory is not self.root:
            names.append(directory.name)
            directory = directory.parent
        return b"/".join(reversed(names))

    def _close_fds(self, directory: Dir) -> None:
        for fd in directory.fds.values():
            os.close(fd)
            self.fd_count -= 1
        directory.fds.clear()
        self._open_dirs.pop(directory, None)

    def close_parts(self, directory: Dir) -> None:
        """Let go of all that is held for a directory which nobody knows any more: descriptors and listing."""
        self._close_fds(directory)
        self.drop_listing(directory)

    def keep_within_limit(self) -> None:
        """`trim` where there are too many."""
        if self.fd_count > self.fd_limit:
            self.trim()

    def trim(self) -> None:
        """Close the descriptors that have been open longest, down to three quarters of the limit.

        Call it only where no descriptor from part_fd is in use: at the start of an operation.
        """
        goal = self.fd_limit * 3 // 4
        for directory in list(self._open_dirs):
            if self.fd_count <= goal:
                break
            kept = directory.fds.pop(UPPER, -1) if directory.removed else -1  # it cannot be opened again
            self._close_fds(directory)
            if kept >= 0:
                directory.fds[UPPER] = kept
                self._open_dirs[directory] = None

    # --- listings -----------------------------------------------------------------------------------------------

    def remember_listing(self, directory: Dir) -> None:
        """Count a listing just read, and drop the oldest unchanged ones when together they hold too many names."""
        listing = directory.listing
        if listing is None:
            return
        self._listed[directory] = count = len(listing.entries) + _LISTING_ITSELF
        self._listed_names += count
        if self._listed_names > _KEPT_NAMES:
            self._drop_listings(directory)

    def _drop_listings(self, newest: Dir) -> None:
        for directory, count in list(self._listed.items()):
            if self._listed_names <= _KEPT_NAMES * 3 // 4 or directory is newest:
                break
            # The offsets of a changed listing are not those that a second reading would give: it stays as long as
            # its directory is known.
            if directory.listing is not None and not directory.listing.changed:
                self.drop_listing(directory)
            else:
                del self._listed[directory]
                self._listed_names -= count

    def drop_listing(self, directory: Dir) -> None:
        """Forget a directory's content; it is read again when someone asks."""
        self._listed_names -= self._listed.pop(directory, 0)
        directory.listing = None

    # --- whiteout forms -----------------------------------------------------------------------------------------

    def aufs_in(self, layer: int) -> bool:
        """Whether `.wh.` names mean whiteouts: in every lower, and in an upper that can hold no other form."""
        return layer != UPPER or self.abilities.whiteout == "aufs"

    def has_xattr_whiteouts(self, fd: int) -> bool:
        """Whether the directory is marked to hold whiteouts in the xattr form."""
        return marks.read(fd, b"", self.marks.opaque) == b"x"

    def require_writable(self) -> None:
        """Raises EROFS on a read-only mount."""
        if self.readonly:
            raise OSError(EROFS, os.strerror(EROFS))

    def temp_name(self) -> bytes:
        """A name in the work directory that nothing else uses."""
        self.serial += 1
        return b"#%x" % self.serial
