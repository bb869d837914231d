"""`unionfs mount`, the mount helper `mount.unionfs`, and `unionfs` in the place of a mount program."""

from __future__ import annotations

from unionfs.cli import checks
from unionfs.cli.args import parse
from unionfs.cli.errors import UsageError, shown
from unionfs.cli.options import FRONTENDS, MountOptions, apply
from unionfs.union.config import Config

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

USAGE = """usage: unionfs mount [-o OPTIONS] [FLAGS] [SOURCE] MNT

Mounts a stack of layers at the directory MNT and returns when the mount answers.

  -o OPTIONS       as for mount -t overlay and fuse-overlayfs, separated by commas:
                   lowerdir=A:B:C,upperdir=U,workdir=W,… (docs/options.md lists all)
  --lower DIR      a read-only layer; again for the next below it
  --data DIR       a data-only layer below those
  --upper DIR      the writable layer; without one the mount is read-only
  --work DIR       its scratch directory, on the same file system
  --source NAME    what /proc/mounts shows as the device (unionfs)
  --frontend NAME  auto, kernel (the FUSE protocol itself) or fusepy (through libfuse)
  --log FILE       where the daemon writes errors, and counters on SIGUSR1
  -f, --foreground do not become a daemon
  -d, --debug      a line for each request and reply; in the foreground unless there is a --log
"""

HELPER_USAGE = """usage: mount.unionfs [SOURCE] MNT [-sfnv] [-o OPTIONS] [-t TYPE]

The helper that mount(8) runs for mount -t unionfs; unionfs mount --help tells about OPTIONS.
"""

_COMMON = {b"-o": ("options", True), b"-h": ("help", False), b"--help": ("help", False)}

_COMMAND_FLAGS = _COMMON | {
    b"--options": ("options", True), b"--lower": ("lower", True), b"--data": ("data", True),
    b"--upper": ("upper", True), b"--work": ("work", True), b"--source": ("source", True),
    b"--frontend": ("frontend", True), b"--log": ("log", True), b"-f": ("foreground", False),
    b"--foreground": ("foreground", False), b"-d": ("debug", False), b"--debug": ("debug", False),
}  # fmt: skip

# What mount(8) passes to every helper: -f is a dry run; -s would tolerate unknown options (nothing here),
# -n leave mtab alone, -v talk.
_HELPER_FLAGS = _COMMON | {
    b"-f": ("fake", False), b"-t": ("type", True),
    b"-s": ("ignored", False), b"-n": ("ignored", False), b"-v": ("ignored", False),
    b"-w": ("ignored", False), b"-r": ("readonly", False),
    b"--foreground": ("foreground", False), b"--debug": ("debug", False),
}  # fmt: skip

# What programs that stand in for fuse-overlayfs are called with.
_PROGRAM_FLAGS = _COMMAND_FLAGS | {b"-s": ("ignored", False), b"-t": ("type", True)}


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
        if name == "help":
            return None
        _FLAG_EFFECTS[name](plan, value)
    if not positionals:
        raise UsageError("no mount point given: unionfs mount -o lowerdir=A:B,upperdir=U,workdir=W MNT")
    if len(positionals) > 2:
        raise UsageError(f"too many arguments: '{shown(positionals[2])}'")
    if len(positionals) == 2:
        plan.mount.source = positionals[0]
    plan.mountpoint = positionals[-1]
    return plan


def _lower(plan: Plan, value: bytes) -> None:
    plan.config.lower = [*plan.config.lower, value]


def _data(plan: Plan, value: bytes) -> None:
    plan.config.data = [*plan.config.data, value]


def _upper(plan: Plan, value: bytes) -> None:
    plan.config.upper = value


def _work(plan: Plan, value: bytes) -> None:
    plan.config.work = value


def _source(plan: Plan, value: bytes) -> None:
    plan.mount.source = value


def _log(plan: Plan, value: bytes) -> None:
    plan.mount.log = value


def _foreground(plan: Plan, _value: bytes) -> None:
    plan.mount.foreground = True


def _debug(plan: Plan, _value: bytes) -> None:
    plan.mount.debug = True


def _fake(plan: Plan, _value: bytes) -> None:
    plan.fake = True


def _frontend(plan: Plan, value: bytes) -> None:
    if (name := shown(value)) not in FRONTENDS:
        raise UsageError(f"--frontend must be {', '.join(FRONTENDS[:-1])} or {FRONTENDS[-1]}, not '{name}'")
    plan.mount.frontend = name


def _options(plan: Plan, value: bytes) -> None:
    apply(value, plan.config, plan.mount)


def _readonly(plan: Plan, _value: bytes) -> None:
    apply(b"ro", plan.config, plan.mount)


def _nothing(_plan: Plan, _value: bytes) -> None:
    pass


_FLAG_EFFECTS: dict[str, Callable[[Plan, bytes], None]] = {
    "options": _options, "lower": _lower, "data": _data, "upper": _upper, "work": _work, "source": _source,
    "log": _log, "foreground": _foreground, "debug": _debug, "fake": _fake, "frontend": _frontend,
    "readonly": _readonly, "type": _nothing, "ignored": _nothing,
}  # fmt: skip


def carry_out(plan: Plan) -> None:
    """Mount it. Returns when the mount answers or, in the foreground, when it has been unmounted.

    Raises CommandError; then nothing is mounted and no process is left.
    """
    from unionfs.cli import daemon, serve
    from unionfs.cli.log import Log

    mount = plan.mount
    mountpoint = checks.mountpoint(plan.mountpoint)
    plan.config.mountpoint = mountpoint
    in_foreground = mount.foreground or (mount.debug and mount.log is None)
    log = Log.to_file(mount.log) if mount.log is not None else Log(2 if in_foreground else -1)

    def body(report: daemon.Report) -> None:
        serve.run(plan.config, mount, mountpoint, report, log)

    if in_foreground:
        daemon.foreground(body)
    else:
        daemon.spawn(body, log)
