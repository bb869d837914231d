"""`unionfs mount`, the mount helper `mount.unionfs`, and `unionfs` in the place of a mount program."""

from __future__ import annotations

from unionfs.cli import checks
from unionfs.cli.args import parse
from unionfs.cli.errors import UsageError, shown
from unionfs.cli.options import MountOptions, apply, apply_one
from unionfs.cli.optstring import escape
from unionfs.union.config import Config

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

USAGE = """usage: unionfs mount [-o OPTIONS] [FLAGS] [SOURCE] MNT

Mounts a stack of layers at the directory MNT and returns when the mount answers.

  -o OPTIONS       as for mount -t overlay and fuse-overlayfs, separated by commas:
                   lowerdir=A:B:C,upperdir=U,workdir=W,… (docs/options.md lists all)
  --lower DIR      a read-only layer; again for the next below it
  --data DIR       a data-only layer below those
  --upper DIR      the writable layer; without one the mount is read-only
  --work DIR       its scratch directory, on the same file system
  --docker NAME    instead: an image or a container in Docker's own store (overlay2);
                   writable only for a container that is stopped
  --docker-root D  where that is (/var/lib/docker)
  --source NAME    what /proc/mounts shows as the device (unionfs)
  --frontend NAME  auto, kernel (the FUSE protocol itself) or fusepy (through libfuse)
  --log FILE       where the daemon writes errors, and counters on SIGUSR1
  -f, --foreground do not become a daemon
  -d, --debug      a line for each request and reply; in the foreground unless there is a --log
"""

HELPER_USAGE = """usage: mount.unionfs [SOURCE] MNT [-sfnv] [-o OPTIONS] [-t TYPE]

The helper that mount(8) runs for mount -t unionfs; unionfs mount --help tells about OPTIONS.
"""

# Spelling → what it stands for, and whether a value follows. Names without a star are mount options.
_COMMON = {b"-o": ("*options", True), b"-h": ("*help", False), b"--help": ("*help", False)}

_COMMAND_FLAGS = _COMMON | {
    b"--options": ("*options", True), b"--lower": ("lowerdir+", True), b"--data": ("datadir+", True),
    b"--upper": ("upperdir", True), b"--work": ("workdir", True), b"--source": ("fsname", True),
    b"--docker": ("docker", True), b"--docker-root": ("docker_root", True),
    b"--frontend": ("frontend", True), b"--log": ("log", True), b"-f": ("foreground", False),
    b"--foreground": ("foreground", False), b"-d": ("debug", False), b"--debug": ("debug", False),
}  # fmt: skip

# What mount(8) passes to every helper: -f is a dry run; -s would tolerate unknown options (nothing here does),
# -n leave mtab alone, -v talk.
_HELPER_FLAGS = _COMMON | {
    b"-f": ("*fake", False), b"-r": ("ro", False), b"-w": ("rw", False), b"-t": ("*ignored", True),
    b"-s": ("*ignored", False), b"-n": ("*ignored", False), b"-v": ("*ignored", False),
    b"--foreground": ("foreground", False), b"--debug": ("debug", False),
}  # fmt: skip

# What programs that stand in for fuse-overlayfs are called with.
_PROGRAM_FLAGS = _COMMAND_FLAGS | {b"-s": ("*ignored", False), b"-t": ("*ignored", True)}


class Plan:
    """A mount as it was asked for."""

    __slots__ = ("config", "fake", "mount", "mountpoint")

    def __init__(self) -> None:
        self.config = Config(lower=[])
        self.mount = MountOptions()
        self.mountpoint = b""
        self.fake = False


def run(argv: list[bytes]) -> int:
    return _run(argv, _COMMAND_FLAGS, USAGE)


def run_as_helper(argv: list[bytes]) -> int:
    return _run(argv, _HELPER_FLAGS, HELPER_USAGE)


def run_as_program(argv: list[bytes]) -> int:
    return _run(argv, _PROGRAM_FLAGS, USAGE)


def _run(argv: list[bytes], flags: Mapping[bytes, tuple[str, bool]], usage: str) -> int:
    plan = read_plan(argv, flags)
    if plan is None:
        print(usage, end="")
    elif not plan.fake:
        carry_out(plan)
    return 0


def read_plan(argv: list[bytes], flags: Mapping[bytes, tuple[str, bool]]) -> Plan | None:
    """What the command line asks for; None where it asks for help. Raises UsageError."""
    found, positionals = parse(argv, flags)
    plan = Plan()
    for name, value in found:
        if name == "*help":
            return None
        if name == "*options":
            apply(value, plan.config, plan.mount)
        elif name == "*fake":
            plan.fake = True
        elif name != "*ignored":
            apply_one(name.encode(), escape(value) or None, plan.config, plan.mount)
    if not positionals:
        raise UsageError("no mount point given: unionfs mount -o lowerdir=A:B,upperdir=U,workdir=W MNT")
    if len(positionals) > 2:
        raise UsageError(f"too many arguments: '{shown(positionals[2])}'")
    if len(positionals) == 2:
        plan.mount.source = positionals[0]
    plan.mountpoint = positionals[-1]
    return plan


def carry_out(plan: Plan) -> None:
    """Mount it. Returns when the mount answers or, in the foreground, when it has been unmounted.

    Raises CommandError; then nothing is mounted and no process is left.
    """
    from unionfs.cli import daemon, serve
    from unionfs.cli.log import Log

    mount = plan.mount
    mountpoint = checks.mountpoint(plan.mountpoint)
    plan.config.mountpoint = mountpoint
    if mount.docker is not None:
        _add_docker_layers(plan.config, mount.docker, mount.docker_root)
    in_foreground = mount.foreground or (mount.debug and mount.log is None)
    log = Log.to_file(mount.log) if mount.log is not None else Log(2 if in_foreground else -1)

    def body(report: daemon.Report) -> None:
        serve.run(plan.config, mount, mountpoint, report, log)

    if in_foreground:
        daemon.foreground(body)
    else:
        daemon.spawn(body, log)


def _add_docker_layers(config: Config, name: bytes, root: bytes) -> None:
    import sys

    from unionfs.cli import docker_layers

    if note := docker_layers.fill(config, name, root):
        print(f"unionfs: {note}", file=sys.stderr)
