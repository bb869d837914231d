"""Mounts over the layers of a store: the daemon holds on to what it uses and removes what is to go with it."""

from __future__ import annotations

import gc
import os
import signal
from contextlib import contextmanager

from unionfs import libc
from unionfs.cli import checks, daemon
from unionfs.cli.errors import UsageError
from unionfs.cli.options import MountOptions, apply
from unionfs.union.config import Config

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from unionfs.image.store import Layer, Store


class Request:
    """A mount: lowers top first; upper and work empty for a read-only one."""

    def __init__(self, lowers: list[str], upper: str = "", work: str = "", *, rootless: bool = False) -> None:
        """rootless: the layers are an ordinary user's, who keeps owners and modes in an xattr."""
        # What Docker's overlay2 does, too: every upper can be packed as a layer by itself, and what is seen on the
        # mount is what is packed. With redirects, metacopy or an index part of it would be in the layers below.
        self.config = Config(
            lower=[os.fsencode(path) for path in lowers], upper=os.fsencode(upper) or None,
            work=os.fsencode(work) or None, redirect_dir="off", metacopy=False, index=False,
            xattr_permissions=2 if rootless else 0,
        )  # fmt: skip
        if upper and rootless and (user := os.geteuid()):
            # The kernel lets him write only what it believes to be his: what is root's in the image.
            self.config.uid_map = [(0, user, 1), (1, 1, 0xFFFFFFFE)]
            self.config.gid_map = [(0, os.getegid(), 1), (1, 1, 0xFFFFFFFE)]
        self.mount = MountOptions()
        self.mount.source = b"unionfs-image"
        self.with_parent = False
        """The daemon unmounts when the process that started it ends."""
        self.at_end: Callable[[], object] = lambda: None
        """Called in the daemon after the unmount."""

    def volatile(self) -> None:
        """Syncing is of no use for what does not outlive the mount."""
        self.config.volatile, self.config.sync = True, False

    def options(self, text: str) -> None:
        """More mount options, as for `unionfs mount -o`. Raises UsageError."""
        apply(os.fsencode(text), self.config, self.mount)
        if self.mount.docker is not None:
            raise UsageError("option docker is for unionfs mount; here it is unionfs image mount --docker NAME MNT")


def start(store: Store | None, layers: list[Layer], request: Request, mountpoint: str) -> None:
    """Mount; returns when the mount answers. While it is there these layers of the store are safe from gc.

    The caller holds the store's lock. Raises CommandError; then nothing is mounted, and `at_end` was called.
    """
    from unionfs.cli.log import Log

    target = checks.mountpoint(os.fsencode(mountpoint))
    request.config.mountpoint = target
    log = Log.to_file(request.mount.log) if request.mount.log is not None else Log(-1)

    def body(report: daemon.Report) -> None:
        from unionfs.cli import serve

        # What the parent had open is closed here; an object of its that only the garbage collector would find must
        # not close a descriptor of that number again.
        gc.freeze()
        if request.with_parent:
            libc.die_with_parent(signal.SIGTERM)
        held = store.use(layers) if store is not None else []
        try:
            serve.run(request.config, request.mount, target, report, log)
        finally:
            request.at_end()
            del held

    daemon.spawn(body, log)


@contextmanager
def mounted(store: Store, layers: list[Layer], request: Request, mountpoint: str) -> Iterator[None]:
    """The mount as long as the block runs, and no longer, whatever happens to this process."""
    from unionfs.cli.umount import unmount

    request.with_parent = True
    start(store, layers, request, mountpoint)
    try:
        yield
    finally:
        unmount(os.fsencode(mountpoint))
