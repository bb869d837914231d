"""Any engine behind one face: a stack of described layers, mounted, used, remounted, checked, gone.

    fs = Mounted("overlay", base, [{"f": "top"}, {"f": "bottom"}])
    fs.read("f"), fs.write("f", b"new"), fs.remount(), fs.close()

plain    a directory of ext4 that holds the merged tree; shows what any file system does
overlay  the kernel's overlayfs, the reference
unionfs  front end A; fusepy is front end B; each a foreground daemon that is ours to end
"""

from __future__ import annotations

import contextlib
import os
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from tests.lib import kernel, stackcheck, tree
from tests.lib.layers import Layer, build, merge

ALL = ("plain", "overlay", "unionfs", "fusepy")
UNIONS = ("overlay", "unionfs", "fusepy")
OURS = ("unionfs", "fusepy")
ROOT = Path(__file__).resolve().parents[2]
DEADLINE = 20.0
# What the kernel has to be told to do what unionfs does of itself.
KERNEL_DEFAULTS = {"redirect_dir": "on", "index": "on", "metacopy": "off", "xino": "auto"}


def wait_until(condition: Callable[[], bool], what: str, deadline: float = DEADLINE) -> None:
    """Polls until the condition holds; AssertionError that says what was waited for, after `deadline` seconds."""
    end = time.monotonic() + deadline
    pause = 0.0005
    while not condition():
        assert time.monotonic() < end, f"waited {deadline:.0f} s in vain for: {what}"
        time.sleep(pause)
        pause = min(pause * 1.5, 0.02)


def is_mounted(path: str) -> bool:
    """By /proc/self/mounts, which asks no daemon."""
    wanted = path.replace("\\", "\\134").replace(" ", "\\040")
    with open("/proc/self/mounts", errors="surrogateescape") as mounts:
        return any(line.split(" ")[1] == wanted for line in mounts)


def escaped(path: str) -> str:
    """A layer's path as lowerdir= takes it."""
    for special in "\\:,":
        path = path.replace(special, "\\" + special)
    return path


class Daemon:
    """One foreground unionfs process that serves one mount point. Its stderr is kept in `log`."""

    def __init__(self, options: str, mountpoint: str, log: str, cwd: str, arguments: Sequence[str] = ()) -> None:
        """Returns when the mount answers; AssertionError with what the daemon said when it ends instead."""
        self.mountpoint, self.log = mountpoint, log
        command = [sys.executable, "-m", "unionfs", "mount", "--foreground", *arguments, "-o", options, mountpoint]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        with open(log, "ab") as output:
            self.process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, cwd=cwd, env=environment
            )
        try:
            wait_until(self._answers, f"the mount on {mountpoint}")
        except BaseException:
            self.kill()
            raise

    def _answers(self) -> bool:
        if self.process.poll() is not None:
            raise AssertionError(f"unionfs mount ended with {self.process.returncode}: {self.said()}")
        return is_mounted(self.mountpoint)

    def said(self) -> str:
        return Path(self.log).read_text(errors="replace")

    def kill(self) -> None:
        """SIGKILL, and the dead mount taken away."""
        self.process.kill()
        self.process.wait()
        while is_mounted(self.mountpoint):
            kernel.umount(self.mountpoint, kernel.MNT_DETACH)

    def wait_end(self) -> None:
        """After an unmount the daemon ends by itself, with 0."""
        try:
            code = self.process.wait(DEADLINE)
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError("the daemon did not end after the unmount") from None
        assert code == 0, f"the daemon ended with {code}: {self.said()}"


class Mounted:
    """A stack and its mount. Paths given to its methods are relative to the mount point."""

    def __init__(
        self,
        engine: str,
        base: Path | str,
        lowers: Sequence[Layer],
        *,
        upper: Layer | None = None,
        readonly: bool = False,
        data: Sequence[Layer] = (),
        options: Sequence[str] = (),
        stray_whiteouts: bool = False,
        mounted: bool = True,
    ) -> None:
        """lowers: top first. data: data-only lowers. options: further -o words. readonly: no upper at all."""
        self.engine, self.base, self.readonly = engine, str(base), readonly
        self.options, self.stray_whiteouts = list(options), stray_whiteouts
        os.makedirs(self.base, exist_ok=True)
        self.lowers = [f"{self.base}/l{i}" for i in range(len(lowers))]
        self.data = [f"{self.base}/d{i}" for i in range(len(data))]
        self.upper, self.work, self.mnt = (f"{self.base}/{name}" for name in ("u", "w", "m"))
        self.daemon: Daemon | None = None
        os.mkdir(self.mnt)
        if engine == "plain":
            merge(self.mnt, [*([] if readonly else [upper or {}]), *lowers])
            return
        for path, layer in zip(self.lowers + self.data, [*lowers, *data], strict=True):
            build(path, layer)
        if not readonly:
            build(self.upper, upper or {})
            os.makedirs(self.work)
        self.remember_lowers()
        if mounted:
            self.mount()

    def remember_lowers(self) -> None:
        """Takes the lowers as they are now for what they must be at the end."""
        self.before = [tree.snapshot(path, exact=True) for path in self.lowers + self.data]

    # -- mounting -------------------------------------------------------------------------------------------

    def mount(self, *, engine: str | None = None, upper: str | None = None, work: str | None = None) -> None:
        """Mounts; another engine or upper may be named, for the exchange of uppers."""
        engine = engine or self.engine
        if engine == "plain":
            return
        options = self._options(engine, upper or self.upper, work or self.work)
        if engine == "overlay":
            with _inside(self.base):
                kernel.mount("overlay", self.mnt, "overlay", options)
            return
        arguments = ["--frontend", "fusepy"] if engine == "fusepy" else []
        self.daemon = Daemon(options, self.mnt, f"{self.base}/log", self.base, arguments)

    def _options(self, engine: str, upper: str, work: str) -> str:
        """Relative layer paths, so that 500 of them fit the page that mount(2) takes."""
        lowers = ":".join(escaped(os.path.relpath(path, self.base)) for path in self.lowers)
        lowers += "".join("::" + escaped(os.path.relpath(path, self.base)) for path in self.data)
        words = [f"lowerdir={lowers}"]
        if not self.readonly:
            words += [f"upperdir={escaped(upper)}", f"workdir={escaped(work)}"]
        if engine == "overlay":
            given = {word.split("=")[0] for word in self.options}
            defaults = {} if self.readonly else KERNEL_DEFAULTS
            words += [f"{key}={value}" for key, value in defaults.items() if key not in given]
        return ",".join(words + self.options)

    def unmount(self) -> None:
        """Unmounts and waits for the daemon's end; AssertionError where something still holds the mount."""
        daemon, self.daemon = self.daemon, None
        if self.engine == "plain":
            return
        try:
            kernel.umount(self.mnt)
        except OSError as e:
            with contextlib.suppress(OSError):
                kernel.umount(self.mnt, kernel.MNT_DETACH)
            if daemon:
                daemon.kill()
            raise AssertionError(f"unmounting failed: {e.strerror}") from e
        if daemon:
            daemon.wait_end()

    def remount(self) -> None:
        self.unmount()
        self.mount()

    def close(self) -> None:
        """Unmounts if mounted. Never leaves a mount or a daemon, whatever happened."""
        if self.daemon or is_mounted(self.mnt):
            self.unmount()

    def faults(self) -> list[str]:
        """After the unmount: changes of lowers, a malformed upper, tracebacks in the daemon's log."""
        if self.engine == "plain":
            return []
        found: list[str] = []
        for path, before in zip(self.lowers + self.data, self.before, strict=True):
            lines = tree.diff(before, tree.snapshot(path, exact=True), names="before after")
            found += [f"lower {os.path.basename(path)} changed: {line}" for line in lines]
        if not self.readonly:
            lowers = self.lowers + self.data
            space = "user.overlay." if "userxattr" in self.options else "trusted.overlay."
            stray = self.stray_whiteouts
            found += stackcheck.check(lowers, self.upper, self.work, space=space, stray_whiteouts=stray)
        log = Path(self.base, "log")
        if log.exists() and "Traceback" in log.read_text(errors="replace"):
            found.append("the daemon logged: " + log.read_text(errors="replace")[-3000:])
        return found

    # -- short words for what nearly every test does -----------------------------------------------------------

    def path(self, name: str | bytes = "") -> str:
        """The full path; bytes that are not UTF-8 come back as surrogate escapes."""
        return f"{self.mnt}/{os.fsdecode(name)}" if name else self.mnt

    def read(self, name: str | bytes) -> bytes:
        with open(self.path(name), "rb") as file:
            return file.read()

    def write(self, name: str | bytes, content: bytes, flags: int = os.O_CREAT | os.O_TRUNC, mode: int = 0o644) -> None:
        fd = os.open(self.path(name), os.O_WRONLY | flags, mode)
        try:
            os.write(fd, content)
        finally:
            os.close(fd)

    def append(self, name: str | bytes, content: bytes) -> None:
        self.write(name, content, os.O_APPEND)

    def ls(self, name: str | bytes = "") -> list[str]:
        return sorted(os.listdir(self.path(name)))

    def stat(self, name: str | bytes = "") -> os.stat_result:
        return os.lstat(self.path(name))

    def exists(self, name: str | bytes) -> bool:
        return os.path.lexists(self.path(name))

    def in_upper(self, name: str | bytes) -> bool:
        """Whether upper's disk has this very path. On plain nothing is ever in upper."""
        return os.path.lexists(f"{self.upper}/{os.fsdecode(name)}")

    def assert_copied_up(self, *names: str | bytes) -> None:
        for name in names:
            assert self.engine == "plain" or self.in_upper(name), f"{name!r} is not in upper"

    def assert_not_copied_up(self, *names: str | bytes) -> None:
        for name in names:
            assert not self.in_upper(name), f"{name!r} is in upper"

    def is_whiteout(self, name: str | bytes) -> bool:
        """Whether upper's disk has a whiteout (device 0:0) there."""
        try:
            st = os.lstat(f"{self.upper}/{os.fsdecode(name)}")
        except OSError:
            return False
        return stat.S_ISCHR(st.st_mode) and st.st_rdev == 0

    def tree(self) -> tree.Snapshot:
        return tree.snapshot(self.mnt)


@contextlib.contextmanager
def _inside(directory: str):  # type: ignore[no-untyped-def]
    """For mount(2) with relative paths. The tests run in one thread."""
    before = os.open(".", os.O_RDONLY | os.O_DIRECTORY)
    os.chdir(directory)
    try:
        yield
    finally:
        os.fchdir(before)
        os.close(before)


def close_all(stacks: Sequence[Mounted]) -> None:
    """Unmounts all of them; then each must be as `faults` wants it."""
    faults: list[str] = []
    for stack in stacks:
        try:
            stack.close()
        except AssertionError as e:
            faults.append(str(e))
        faults += stack.faults()
    assert not faults, "\n".join(faults)
