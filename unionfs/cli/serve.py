"""The body of a mount, from opening the layers to the unmount; in a daemon or in the foreground."""

from __future__ import annotations

import os

from unionfs.cli import checks, lifeline, mounts, utab, watch
from unionfs.cli.errors import CommandError
from unionfs.union import ConfigError, Union
from unionfs.union.owners import open_union

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from unionfs.cli.daemon import Report
    from unionfs.cli.log import Log
    from unionfs.cli.options import MountOptions
    from unionfs.union.config import Config


# The mount, once it answers, and its lifeline, which is held until the process ends, so until the layers are closed
_ANNOUNCED: list[tuple[mounts.Mount, object]] = []


class _NoAgreement(Exception):
    """Front end A and this kernel do not understand each other; nothing is mounted."""


def run(config: Config, mount: MountOptions, mountpoint: bytes, report: Report, log: Log) -> None:
    """Serve the stack at `mountpoint` until it is unmounted. Raises CommandError while nothing is mounted yet."""
    try:
        union = open_union(config)
    except ConfigError as error:
        raise CommandError(str(error)) from None
    try:
        if not mount.nonempty:
            checks.empty(mountpoint)
        os.chdir("/")
        _serve(union, mount, mountpoint, report, log)
    finally:
        union.close()
        for mounted, _ in _ANNOUNCED:
            utab.remove(mounted)


def _serve(union: Union, mount: MountOptions, mountpoint: bytes, report: Report, log: Log) -> None:
    if mount.frontend != "fusepy":
        try:
            _serve_kernel(union, mount, mountpoint, report, log)
            return
        except _NoAgreement as error:
            if mount.frontend == "kernel":
                raise CommandError(str(error)) from None
            report.note(f"{error}; serving through libfuse (fusepy) instead, which is slower")
    _serve_fusepy(union, mount, mountpoint, report, log)


def _serve_kernel(union: Union, mount: MountOptions, mountpoint: bytes, report: Report, log: Log) -> None:
    from unionfs import server
    from unionfs.device import MountError

    options = server.Options()
    for name in ("allow_root", "debug", "max_write", "pacing", "passthrough", "timeout"):
        setattr(options, name, getattr(mount, name))
    options.log = log
    try:
        session = server.mount(
            union, mountpoint, options, source=mount.source, flags=mount.flags, allow_other=_allow_other(mount),
            labels=_labels(mount), private=mount.private,
        )  # fmt: skip
    except MountError as error:
        raise CommandError(str(error)) from None
    announce = _announcer(mountpoint, "kernel", report, log)

    def ready() -> None:
        announce()
        if session.passthrough:
            log(f"data goes through the daemon: {session.passthrough}")

    try:
        session.run(ready)
    except MountError as error:
        raise _NoAgreement(str(error)) from None


def _serve_fusepy(union: Union, mount: MountOptions, mountpoint: bytes, report: Report, log: Log) -> None:
    from unionfs import fusepy_front, libc
    from unionfs.device import unmount

    checks.device()
    watch.block()
    announce = _announcer(mountpoint, "fusepy", report, log)

    def ready() -> None:
        if mount.private:
            libc.mount(None, mountpoint, None, libc.MS_PRIVATE, None)
        watch.start(lambda lazy: unmount(mountpoint, lazy=lazy), lambda: union.counters, log)
        announce()

    try:
        fusepy_front.serve(
            union, mountpoint, source=mount.source, flags=mount.flags, allow_other=_allow_other(mount),
            allow_root=mount.allow_root, labels=_labels(mount), timeout=mount.timeout, debug=mount.debug, log=log,
            ready=ready,
        )  # fmt: skip
    except fusepy_front.FrontError as error:
        raise CommandError(str(error)) from None
    except ImportError as error:
        raise CommandError(
            f"the front end fusepy cannot be used: {error}; it needs pip install fusepy, and apt-get install libfuse2"
        ) from None
    except BrokenPipeError:
        raise CommandError("unmounted, since the command that mounted has gone") from None


def _announcer(mountpoint: bytes, frontend: str, report: Report, log: Log) -> Callable[[], None]:
    """What a front end calls when the mount answers."""

    def announce() -> None:
        mounted = mounts.topmost(mountpoint)
        if mounted is not None:
            _ANNOUNCED.append((mounted, lifeline.hold(mounted)))
            utab.add(mounted)
        log(f"mounted at {os.fsdecode(mountpoint)}, front end {frontend}, pid {os.getpid()}")
        report.ready()

    return announce


def _allow_other(mount: MountOptions) -> bool:
    if mount.allow_other is None:
        return os.geteuid() == 0 and not mount.allow_root
    return mount.allow_other


def _labels(mount: MountOptions) -> list[bytes]:
    """Without SELinux the kernel knows no labels and would refuse them."""
    return mount.labels if os.path.exists("/sys/fs/selinux") else []
