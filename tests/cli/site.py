"""A place for one stack, and the unionfs command to be run on it in every way that there is."""

from __future__ import annotations

import contextlib
import os
import pwd
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import pytest

from tests.lib import kernel
from tests.lib.asuser import as_user
from tests.lib.engines import ROOT, is_mounted, wait_until

UNIONFS = "import sys; from unionfs.cli import main; sys.exit(main())"
HELPER = "import sys; from unionfs.cli import mount_helper; sys.exit(mount_helper())"

F = TypeVar("F", bound=Callable[..., object])
Done = subprocess.CompletedProcess[str]

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")

USER = pwd.getpwnam("nobody").pw_uid  # fusermount3 insists on a name in /etc/passwd


def user_mounts(test: F) -> F:
    """For tests of root in which an ordinary user mounts."""
    closed = not os.path.exists("/dev/fuse") or not os.stat("/dev/fuse").st_mode & 0o002
    skip = pytest.mark.skipif(closed, reason="/dev/fuse is for root alone (not so in a run by `make test`)")
    missing = pytest.mark.skipif(not shutil.which("fusermount3"), reason="needs fusermount3")
    marked: F = needs_root(skip(missing(test)))
    return marked


def alive(pid: int) -> bool:
    """Neither gone nor a zombie that its new parent has not reaped yet."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"


class Site:
    """Directories for a stack, and the commands on it. Whatever is mounted below it goes away at the end."""

    def __init__(self, base: Path) -> None:
        self.base, self.mnt, self.log = base, base / "mnt", base / "log"
        self.children: list[subprocess.Popen[bytes]] = []
        self.python = ""
        for name in ("top", "bottom", "upper", "work", "mnt"):
            (base / name).mkdir()
        (base / "top/t").write_text("top")
        (base / "bottom/b").write_text("bottom")
        self.stack = f"lowerdir={base}/top:{base}/bottom"
        self.options = f"{self.stack},upperdir={base}/upper,workdir={base}/work"

    def run(self, *words: str | Path, program: str = UNIONFS) -> Done:
        """Runs a command to its end; whoever keeps its stderr open makes this time out."""
        return subprocess.run(
            [sys.executable, "-bb", "-W", "error", "-c", program, *words], capture_output=True, text=True, timeout=30,
            cwd=self.base, env={**os.environ, "PYTHONPATH": str(ROOT)}, check=False,
        )  # fmt: skip

    def run_as_user(self, *words: str | Path) -> Done:
        """Runs a command as the ordinary user to whom everything below this site was given."""
        if not self.python:
            self.python = interpreter_for(USER)
            shutil.copytree(ROOT / "unionfs", self.base / "code/unionfs", ignore=shutil.ignore_patterns("__pycache__"))
        return as_user(lambda: self._run_as_user(words), USER)

    def _run_as_user(self, words: tuple[str | Path, ...]) -> Done:
        environment = {"PATH": os.defpath, "PYTHONPATH": str(self.base / "code"), "PYTHONDONTWRITEBYTECODE": "1"}
        return subprocess.run(
            [self.python, "-m", "unionfs", *words], capture_output=True, text=True, timeout=30, check=False,
            cwd=self.base, env=environment,
        )  # fmt: skip

    def give_to_user(self) -> None:
        for path in [self.base, *self.base.rglob("*")]:
            os.chown(path, USER, USER)

    def mount(self, *words: str | Path) -> int:
        """Mounts with a log, successfully and silently; the daemon's pid."""
        done = self.run("mount", "--log", self.log, *words)
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
        return self.pid()

    def pid(self) -> int:
        found = re.findall(r"pid (\d+)", self.log.read_text())
        return int(found[-1])

    def foreground(self, *words: str | Path) -> subprocess.Popen[bytes]:
        """Starts a foreground mount; returns when it answers. Its stderr is the log."""
        with open(self.log, "ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-c", UNIONFS, "mount", *words], stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                cwd=self.base, env={**os.environ, "PYTHONPATH": str(ROOT)},
            )  # fmt: skip
        self.children.append(process)
        wait_until(lambda: is_mounted(str(self.mnt)) or process.poll() is not None, "the mount")
        return process

    def refused(self, *words: str | Path, message: str, code: int = 1) -> None:
        """The command fails with this one line, and nothing is mounted and no process left."""
        done = self.run(*words)
        assert (done.returncode, done.stdout) == (code, "")
        assert re.search(message, done.stderr)
        assert done.stderr.startswith("unionfs: ")
        assert done.stderr.count("\n") == 1
        assert not is_mounted(str(self.mnt))
        assert self.processes() == []

    def processes(self) -> list[int]:
        """Those that were started with a path below this site."""
        found = []
        for entry in os.listdir("/proc"):
            with contextlib.suppress(OSError, ValueError):
                if str(self.base).encode() in Path(f"/proc/{int(entry)}/cmdline").read_bytes() and alive(int(entry)):
                    found.append(int(entry))
        return found

    def clean(self) -> None:
        with open("/proc/self/mounts") as mounts:
            below = [line.split()[1] for line in mounts if line.split()[1].startswith(str(self.base))]
        for mountpoint in reversed(below):
            kernel.umount(mountpoint, kernel.MNT_DETACH)
        for process in self.children:
            process.wait(20)
        wait_until(lambda: self.processes() == [], "the end of all daemons of this test")


def interpreter_for(uid: int) -> str:
    """A Python that this user may run; this very one may lie in root's home."""
    for python in (sys.executable, "/usr/bin/python3"):
        command = [python, "-c", "import sys; sys.exit(sys.version_info < (3, 11))"]
        with contextlib.suppress(OSError):
            if as_user(lambda command=command: subprocess.run(command, cwd="/").returncode, uid) == 0:  # type: ignore[misc]
                return python
    pytest.skip("no Python 3.11 that an ordinary user may run")


def fields(mountpoint: Path) -> list[str]:
    """The words of its line in /proc/self/mounts."""
    with open("/proc/self/mounts") as mounts:
        return next(line.split() for line in mounts if line.split()[1] == str(mountpoint))


def assert_works(site: Site, source: str = "unionfs") -> None:
    assert (fields(site.mnt)[0], fields(site.mnt)[2]) == (source, "fuse.unionfs")
    assert sorted(os.listdir(site.mnt)) == ["b", "t"]
    assert (site.mnt / "b").read_text() == "bottom"
    (site.mnt / "n").write_text("new")
    assert (site.base / "upper/n").read_text() == "new"


def unmount(site: Site) -> None:
    done = site.run("umount", site.mnt)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert not is_mounted(str(site.mnt))
    assert site.processes() == []
