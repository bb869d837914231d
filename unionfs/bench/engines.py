"""The file systems that are compared: how each mounts one stack of layers, and what each cannot do."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from unionfs.bench import counters
from unionfs.bench.client import Failed
from unionfs.bench.process import Daemon, serving

if TYPE_CHECKING:
    from collections.abc import Callable

PATIENCE = 30
"""Seconds that a mount or unmount may take before it counts as hung."""


LOG = "daemon.log"


@dataclass(frozen=True)
class Stack:
    """Layers on disk. `lowers` are names below `home`, top first; `flat` is the merged tree, for engines
    without layers.
    """

    name: str
    home: Path
    lowers: tuple[str, ...]

    @property
    def flat(self) -> Path:
        return self.home / "flat"


@dataclass
class Mount:
    """One mounted stack; `root` is where the workload works."""

    root: Path
    engine: Engine
    daemon: Daemon
    seconds: float
    """From starting the mount command to its success."""
    place: Path
    mute: bool = False
    """The daemon did not tell its counters when asked; not to be asked again."""

    def unmount(self) -> None:
        """Leaves no mount and no process of ours behind; raises Failed where that proves impossible."""
        self.engine.unmount(self)


@dataclass(frozen=True)
class Engine:
    """An engine: `command` gives the mount command's arguments for a stack, run in the stack's home."""

    name: str
    command: Callable[[Engine, Stack, Path, Path | None], list[str]]
    program: str
    version_command: tuple[str, ...]
    cow: bool = True
    """Changes to lower objects work."""
    options: tuple[str, ...] = ()
    environment: dict[str, str] = field(default_factory=dict)
    counts: bool = False
    """The daemon writes its requests by opcode to `place`/daemon.log on SIGUSR1."""

    def missing(self) -> str | None:
        """Why the engine cannot run here; None where it can."""
        if not shutil.which(self.program):
            return f"{self.program} is not installed"
        if os.geteuid() and self.name != "ext4":
            return "mounting needs root"
        if self.name != "kernel" and not os.path.exists("/dev/fuse"):
            return "no /dev/fuse"
        return None

    def version(self) -> str:
        """What the version command says: the line that names the program, or else the first with a number."""
        done = subprocess.run(self.version_command, capture_output=True, text=True, env=self._env(), check=False)
        lines = (done.stdout + done.stderr).splitlines()
        numbered = [line.strip() for line in lines if re.search(r"\d\.\d", line)]
        named = [line for line in numbered if self.name in line]
        return (named or numbered or ["unknown"])[0]

    def mount(self, stack: Stack, place: Path, *, upper: bool, private: bool) -> Mount:  # noqa: ARG002
        """Mounts at place/mnt, with place/upper and place/work if there is to be an upper.

        `private`: the workload will write. Raises Failed with what the command said.
        """
        root = place / "mnt"
        for name in ("mnt", "upper", "work"):
            (place / name).mkdir(parents=True, exist_ok=True)
        command = self.command(self, stack, root, place if upper else None)
        start = time.monotonic()
        self._run(command, stack.home)
        seconds = time.monotonic() - start
        if not os.path.ismount(root):
            raise Failed("the command succeeded but nothing is mounted")
        return Mount(root, self, Daemon(serving(root)), seconds, place)

    def requests(self, mount: Mount) -> dict[str, int]:
        """Requests by opcode since the mount; empty for engines that do not count."""
        if not self.counts or mount.mute:
            return {}
        found = counters.read(mount.daemon.pids, mount.place / LOG)
        mount.mute = not found
        return found

    def unmount(self, mount: Mount) -> None:
        unmount(mount.root)
        deadline = time.monotonic() + PATIENCE
        while mount.daemon.pids and any(_running(pid) for pid in mount.daemon.pids):
            if time.monotonic() > deadline:
                raise Failed("the daemon outlived its mount")
            time.sleep(0.005)

    def _run(self, command: list[str], cwd: Path) -> None:
        with open(cwd / "mount.log", "w+b") as log:
            # a daemon may keep the descriptors: a file instead of a pipe cannot make us wait for it
            try:
                code = subprocess.run(
                    command,
                    cwd=cwd,
                    env=self._env(),
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    timeout=PATIENCE,
                    check=False,
                ).returncode
            except subprocess.TimeoutExpired:
                raise Failed(f"mount still running after {PATIENCE} s") from None
            log.seek(0)
            if code:
                raise Failed(_complaint(log.read().decode(errors="replace")) or f"mount: exit {code}")

    def _env(self) -> dict[str, str]:
        return {**os.environ, **self.environment}


class PlainEngine(Engine):
    """No union at all: the merged tree itself, or a copy of it where the workload writes. The floor of every
    figure.
    """

    def mount(self, stack: Stack, place: Path, *, upper: bool, private: bool) -> Mount:  # noqa: ARG002
        root = place / "mnt" if private else stack.flat
        if private and not root.exists():
            place.mkdir(parents=True, exist_ok=True)
            subprocess.run(["cp", "-a", "--", stack.flat, root], check=True)
            os.sync()  # or the copy is written back while the workload runs
        return Mount(root, self, Daemon([]), 0.0, place)

    def unmount(self, mount: Mount) -> None:
        """Nothing to do; the runner removes the place."""


def _complaint(text: str) -> str:
    """What a failed command said last, without mount's advice to look elsewhere."""
    lines = [line.strip() for line in text.splitlines() if line.strip() and "dmesg(1)" not in line]
    return lines[-1] if lines else ""


def _running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[0] != b"Z"
    except OSError:
        return False


def unmount(root: Path) -> None:
    """Unmounts what is there, if anything. Raises Failed, the mount detached, where it stays busy."""
    deadline = time.monotonic() + PATIENCE
    while os.path.ismount(root):
        done = subprocess.run(["umount", root], capture_output=True, text=True, check=False)
        if done.returncode and time.monotonic() > deadline:
            subprocess.run(["umount", "-l", root], capture_output=True, check=False)
            raise Failed(f"unmount: {done.stderr.strip()}")
        if done.returncode:
            time.sleep(0.02)


def _overlay_options(engine: Engine, stack: Stack, place: Path | None) -> str:
    options = ["lowerdir=" + ":".join(stack.lowers)]
    if place:
        options += [f"upperdir={place / 'upper'}", f"workdir={place / 'work'}"]
    return ",".join([*options, *engine.options])


def _kernel(engine: Engine, stack: Stack, root: Path, place: Path | None) -> list[str]:
    return ["mount", "-t", "overlay", "overlay", "-o", _overlay_options(engine, stack, place), str(root)]


def _fuse_overlayfs(engine: Engine, stack: Stack, root: Path, place: Path | None) -> list[str]:
    return ["fuse-overlayfs", "-o", _overlay_options(engine, stack, place), str(root)]


def _ours(engine: Engine, stack: Stack, root: Path, place: Path | None) -> list[str]:
    front = "fusepy" if engine.name.startswith("fusepy") else "kernel"
    options = _overlay_options(engine, stack, place)
    log = ["--log", str(root.with_name(LOG))] if engine.counts else []
    return [sys.executable, "-m", "unionfs", "mount", "--frontend", front, *log, "-o", options, str(root)]


def _unionfs_fuse(engine: Engine, stack: Stack, root: Path, place: Path | None) -> list[str]:
    branches = [f"{stack.home / name}=RO" for name in stack.lowers]
    if place:
        branches.insert(0, f"{place / 'upper'}=RW")
    options = ",".join(["cow", "allow_other", "suid", "dev", *engine.options])
    return ["unionfs-fuse", "-o", options, ":".join(branches), str(root)]


def _mergerfs(engine: Engine, stack: Stack, root: Path, place: Path | None) -> list[str]:
    branches = [f"{stack.home / name}=RO" for name in stack.lowers]
    if place:
        branches.insert(0, f"{place / 'upper'}=RW")
    options = [
        "allow_other",
        "category.search=ff",
        "category.create=ff",
        "cache.files=auto-full",
        *engine.options,
    ]
    return ["mergerfs", "-o", ",".join(options), ":".join(branches), str(root)]


def _never(*_: object) -> list[str]:
    raise AssertionError("not mounted by a command")


_HERE = {"PYTHONPATH": os.pathsep.join(filter(None, [str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH")]))}
_VERSION = (sys.executable, "-m", "unionfs", "--version")

ENGINES = {
    engine.name: engine
    for engine in (
        PlainEngine("ext4", _never, "uname", ("uname", "-sr")),
        Engine("kernel", _kernel, "mount", ("uname", "-sr")),
        Engine("unionfs", _ours, sys.executable, _VERSION, environment=_HERE, counts=True),
        Engine("fusepy", _ours, sys.executable, _VERSION, environment=_HERE),
        Engine("fuse-overlayfs", _fuse_overlayfs, "fuse-overlayfs", ("fuse-overlayfs", "--version")),
        Engine("unionfs-fuse", _unionfs_fuse, "unionfs-fuse", ("dpkg-query", "-W", "unionfs-fuse")),
        Engine("mergerfs", _mergerfs, "mergerfs", ("mergerfs", "--version"), cow=False),
    )
}
"""Engines by name, in the order of the tables. "ext4" stands for whatever plain file system holds the bench
directory.
"""


def select(spec: str) -> list[Engine]:
    """Engines for a comma-separated list of names, each with mount options after a colon:
    `unionfs:fsync=0:acl=off`.

    Raises ValueError that names an unknown engine.
    """
    chosen = []
    for item in filter(None, spec.split(",")):
        name, *options = item.split(":")
        if name not in ENGINES:
            raise ValueError(f"unknown engine {name!r}; known: {', '.join(ENGINES)}")
        base = ENGINES[name]
        chosen.append(replace(base, name=item, options=tuple(options)) if options else base)
    return chosen
