"""The only code that touches /dev/fuse: mounting, unmounting, messages, backing files."""

from __future__ import annotations

from unionfs.device.errors import MountError
from unionfs.device.mounting import mount, unmount

__all__ = ["MountError", "mount", "unmount"]
