"""Bodies of daemons for test_daemon.py: `python -m tests.cli.bodies NAME LOG` spawns one, as a mount does."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading

from unionfs.cli import daemon, watch
from unionfs.cli.errors import CommandError
from unionfs.cli.log import Log


def living(report: daemon.Report) -> None:
    """Reports what it is like, and lives until it is killed."""
    links = {name: _link(name) for name in os.listdir("/proc/self/fd")}
    state = {"pid": os.getpid(), "sid": os.getsid(0), "umask": os.umask(0), "fds": links}
    report.note(json.dumps(state))
    report.ready()
    signal.pause()


def _link(name: str) -> str:
    try:
        return os.readlink(f"/proc/self/fd/{name}")
    except FileNotFoundError:
        return "the listing itself"


def failing(report: daemon.Report) -> None:
    raise CommandError("layer /x: no such directory")


def crashing(report: daemon.Report) -> None:
    raise ValueError("two\nlines")


def dying(report: daemon.Report) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def leaving(report: daemon.Report) -> None:
    """Ends well, but never got ready."""


def failing_late(report: daemon.Report) -> None:
    report.ready()
    raise RuntimeError("after the mount")


def slow(report: daemon.Report) -> None:
    """Never gets ready; the log says when it waits."""
    LOG(f"waiting {os.getpid()}")
    signal.pause()


def watching(report: daemon.Report) -> None:
    """Busy at first, then unmounted by the second attempt, the lazy one; then it waits for its last user."""
    detached = threading.Event()

    def unmount(lazy: bool) -> None:
        LOG(f"unmount lazy={lazy}")
        if not lazy:
            raise OSError(16, "Device or resource busy")
        detached.set()

    watch.block()
    watch.start(unmount, lambda: {"lookups": 7, "copy_ups": 2}, LOG)
    report.note(str(os.getpid()))
    report.ready()
    detached.wait()
    signal.pause()


LOG = Log()


def main() -> int:
    global LOG
    LOG = Log.to_file(os.fsencode(sys.argv[2]))
    try:
        daemon.spawn(globals()[sys.argv[1]], LOG)
    except CommandError as error:
        print(f"unionfs: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
