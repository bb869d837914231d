"""Front end A: the FUSE kernel protocol, spoken by unionfs itself.

session = server.mount(union, mountpoint, …)   # errors of mounting are reported here
session.run(ready)                             # serves until unmounted; ready() once it answers
union.close()
"""

from __future__ import annotations

import os

from unionfs.device.mounting import mount as mount_device
from unionfs.server.session import Options, Session

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from unionfs.union import Union

__all__ = ["Options", "Session", "mount"]

_MS_RDONLY = 1


def mount(
    union: Union,
    mountpoint: bytes,
    options: Options | None = None,
    *,
    source: bytes = b"unionfs",
    flags: int = 0,
    allow_other: bool = False,
    labels: Iterable[bytes] = (),
    private: bool = False,
) -> Session:
    """Mounts `union` at `mountpoint` (absolute, free of symlinks). Call `run` of the result soon: until then
    whoever touches the mount point waits.

    source       what /proc/mounts shows as the device
    flags        MS_* of mount(2); MS_RDONLY is added where the union is read-only
    allow_other  other users than the mounter may enter (`options.allow_root`: root alone of them)
    labels       SELinux options, as the kernel takes them
    private      the mount does not propagate
    `options` has: timeout (seconds for which the kernel may believe names and attributes; None: for good),
    max_write (the largest WRITE in bytes; None: the largest there is), passthrough (the kernel may use upper
    files by itself), pacing (see `server.pacing`), debug (a line for each request), log (takes lines).
    Raises MountError; then nothing is mounted.
    """
    options = options or Options()
    fd = mount_device(
        mountpoint,
        source=source,
        flags=flags | _MS_RDONLY if union.readonly else flags,
        allow_other=allow_other or options.allow_root,
        labels=labels,
        private=private,
    )
    try:
        return Session(union, mountpoint, fd, options)
    except BaseException:
        os.close(fd)
        raise
