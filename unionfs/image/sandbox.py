"""A command in an image's root: namespaces of its own for mounts, processes, IPC and host name, Docker's capabilities.

The network is the host's. Three processes: the caller; one that enters the namespaces; the first process in there
(PID 1), which passes signals on, collects orphans and ends with the command, and then the kernel ends the rest. Each
dies with the one before it, so nothing is left whatever is killed. What is imported here is imported at the top: in
the image's root there is none of it.
"""

from __future__ import annotations

import os
import signal
import socket
import stat
import traceback
from errno import EACCES, ENOENT, ENOEXEC, ENOTDIR

from unionfs import libc
from unionfs.image import userns, users
from unionfs.image.chain import Chain
from unionfs.image.copies import copy_attributes
from unionfs.image.errors import ImageError
from unionfs.layer import verbs

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import NoReturn

# Docker's default set: chown dac_override fowner fsetid kill setgid setuid setpcap net_bind_service net_raw sys_chroot
# mknod audit_write setfcap
_CAPABILITIES = frozenset((0, 1, 3, 4, 5, 6, 7, 8, 10, 13, 18, 27, 29, 31))
_CAPABILITY_BITS = 64
_DEVICES = ("null", "zero", "full", "random", "urandom", "tty")
_DEVICE_LINKS = {"fd": "/proc/self/fd", "stdin": "/proc/self/fd/0", "stdout": "/proc/self/fd/1",
                 "stderr": "/proc/self/fd/2", "ptmx": "pts/ptmx"}  # fmt: skip
_HOST_FILES = ("/etc/resolv.conf", "/etc/hosts")
_FORWARDED = (signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGWINCH, signal.SIGCONT)
NOT_FOUND, NOT_EXECUTABLE, FAILED = 127, 126, 125
"""Exit codes, as Docker's, where the command itself could not be started."""


class Process:
    """What to run: argv, environment, working directory and user ("", "UID[:GID]", "NAME[:GROUP]") in the image."""

    __slots__ = ("argv", "cwd", "env", "hostname", "output", "stdin", "user")

    def __init__(
        self, argv: list[str], env: dict[str, str], cwd: str = "", user: str = "", *, hostname: str = "unionfs"
    ) -> None:  # fmt: skip
        self.argv = argv
        self.env = env
        self.cwd = cwd or "/"
        self.user = user
        self.stdin = 0
        """The descriptors that become its standard input and output."""
        self.output = 1
        self.hostname = hostname


def mount_points(directory: str, lowers: list[str]) -> None:
    """Fill an empty directory with a layer that has what `run` mounts on and the image below (top first) lacks.

    To be mounted between the image and the upper, so that these names do not get into the upper.
    """
    root = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        with Chain(lowers) as chain:
            _adopt(chain, b"", root)
            for name in (b"dev", b"proc", b"sys"):
                if chain.find(name) is None:
                    os.mkdir(name, 0o755, dir_fd=root)
            missing = [path for path in (b"etc/hosts", b"etc/resolv.conf") if chain.find(path) is None]
            etc = chain.find(b"etc")
            if not missing or (etc is not None and not stat.S_ISDIR(etc.stat.st_mode)):
                return
            os.mkdir(b"etc", 0o755, dir_fd=root)
            for path in missing:
                os.close(os.open(path, os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC, 0o644, dir_fd=root))
            fd = verbs.open_dir(root, b"etc")
            try:
                _adopt(chain, b"etc", fd)
            finally:
                os.close(fd)
    finally:
        os.close(root)


def _adopt(chain: Chain, path: bytes, target: int) -> None:
    """Let a directory of the new layer look as it does in the image."""
    version = chain.find(path)
    if version is None:
        return
    fd, name = chain.open_parent(version.layer, path) if path else (os.dup(chain.roots[version.layer]), b"")
    try:
        copy_attributes(fd, name, target, b"")
    finally:
        os.close(fd)
    verbs.set_times(target, b"", version.stat)


def run(root: bytes, process: Process) -> int:
    """Run it to its end with `root`, a mount, as its root; its exit code, 128 + N where signal N ended it.

    Raises ImageError where it could not be started (`code` says why, as Docker's exit codes do).
    """
    receiving, sending = os.pipe()
    pid = _child(lambda: _enter(root, process, sending))
    os.close(sending)
    try:
        return _await(pid, receiving)
    finally:
        os.close(receiving)


def _await(pid: int, receiving: int) -> int:
    """Wait for the outer process; a Ctrl-C is for the command, which has got it too."""

    def forward(number: int, _frame: object) -> None:
        os.kill(pid, number)

    before = {number: signal.signal(number, forward) for number in (signal.SIGTERM, signal.SIGHUP)}
    before[signal.SIGINT] = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        said = b""
        while part := os.read(receiving, 4096):
            said += part
        code = _exit_code(os.waitpid(pid, 0)[1])
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if said:
        error = ImageError(said.decode("utf-8", "replace"))
        error.code = code
        raise error
    return code


def _exit_code(status: int) -> int:
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else 128 - code


def _child(body: Callable[[], int]) -> int:
    """Fork; the child runs `body`, exits with what it returns, and dies with its parent. The child's pid."""
    parent = os.getpid()
    pid = os.fork()
    if pid:
        return pid
    code = FAILED
    try:
        libc.die_with_parent(signal.SIGKILL)
        if os.getppid() in (parent, 0):  # 0: the parent is outside the PID namespace
            code = body()
    except BaseException:  # whatever it is, this process must end here
        traceback.print_exc()
    finally:
        os._exit(code)


def _tell(sending: int, what: str, error: OSError) -> None:
    os.write(sending, f"{what}: {error.strerror}".encode("utf-8", "backslashreplace"))


def _enter(root: bytes, process: Process, sending: int) -> int:
    """The outer process: into the namespaces."""
    try:
        libc.unshare(libc.CLONE_NEWNS | libc.CLONE_NEWPID | libc.CLONE_NEWUTS | libc.CLONE_NEWIPC)
    except OSError as error:
        _tell(sending, "namespaces are not to be had here", error)
        return FAILED
    inner = _child(lambda: _first(root, process, sending))
    os.close(sending)
    _forward_to(inner)
    return _wait_for(inner)


def _forward_to(pid: int) -> None:
    for number in _FORWARDED:
        signal.signal(number, lambda got, _frame: os.kill(pid, got))
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the terminal sends it to the command itself


def _wait_for(pid: int) -> int:
    """Collect children until this one ends; its exit code."""
    while True:
        ended, status = os.waitpid(-1, 0)
        if ended == pid:
            return _exit_code(status)


def _first(root: bytes, process: Process, sending: int) -> int:
    """PID 1: the mounts, then the command as a child."""
    try:
        _build_root(root)
    except OSError as error:
        _tell(sending, f"the root for the command cannot be built: {os.fsdecode(error.filename or b'')}", error)
        return FAILED
    try:
        socket.sethostname(process.hostname)
    except PermissionError:
        pass
    pid = _child(lambda: _execute(process, sending))
    os.close(sending)
    _forward_to(pid)
    return _wait_for(pid)


def _build_root(root: bytes) -> None:
    libc.mount(None, b"/", None, libc.MS_PRIVATE | libc.MS_REC, None)
    libc.mount(root, root, None, libc.MS_BIND | libc.MS_REC, None)  # pivot_root wants a mount of this namespace
    _mount_proc(root)
    _bind(b"/sys", root + b"/sys", read_only=True)
    _mount_dev(root)
    for name in _HOST_FILES:
        source = os.path.realpath(name)
        if os.path.isfile(source) and os.path.isfile(root + os.fsencode(name)):
            _bind(os.fsencode(source), root + os.fsencode(name), read_only=True)
    os.chdir(root)
    libc.pivot_root(b".", b".")  # the old root comes to lie on the new one
    libc.umount2(b".", libc.MNT_DETACH)
    os.chdir("/")


def _is_real(path: bytes) -> bool:
    """Whether there is a directory, and no symlink that would lead a mount elsewhere."""
    return os.path.isdir(path) and not os.path.islink(path)


def _mount_proc(root: bytes) -> None:
    target = root + b"/proc"
    if not _is_real(target):
        return
    try:
        libc.mount(b"proc", target, b"proc", libc.MS_NOSUID | libc.MS_NODEV | libc.MS_NOEXEC, None)
    except PermissionError:  # a container whose own /proc is partly covered: its processes are seen then
        _bind(b"/proc", target, read_only=False)


def _bind(source: bytes, target: bytes, *, read_only: bool) -> None:
    if os.path.islink(target) or not os.path.exists(target) or not os.path.exists(source):
        return
    # A user namespace may not show what lies below a mount of the host: there only all of it together can be bound.
    libc.mount(source, target, None, libc.MS_BIND | (libc.MS_REC if userns.inside() else 0), None)
    if read_only:
        flags = libc.MS_REMOUNT | libc.MS_BIND | libc.MS_RDONLY | libc.MS_NOSUID | libc.MS_NODEV | libc.MS_NOEXEC
        try:
            libc.mount(None, target, None, flags, None)
        except PermissionError:
            pass  # in a user namespace of its own, where it cannot be written anyway


def _mount_dev(root: bytes) -> None:
    dev = root + b"/dev"
    if not _is_real(dev):
        return
    libc.mount(b"tmpfs", dev, b"tmpfs", libc.MS_NOSUID | libc.MS_NOEXEC, b"mode=755,size=64k")
    for name in _DEVICES:
        target = os.path.join(dev, os.fsencode(name))
        os.close(os.open(target, os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC, 0o666))
        _bind(b"/dev/" + os.fsencode(name), target, read_only=False)
    for name, to in _DEVICE_LINKS.items():
        os.symlink(to, os.path.join(os.fsdecode(dev), name))
    os.mkdir(dev + b"/pts")
    os.mkdir(dev + b"/shm")
    flags = libc.MS_NOSUID | libc.MS_NOEXEC
    libc.mount(b"devpts", dev + b"/pts", b"devpts", flags, b"newinstance,ptmxmode=0666,mode=0620")
    libc.mount(b"tmpfs", dev + b"/shm", b"tmpfs", flags | libc.MS_NODEV, b"mode=1777,size=64m")


def _execute(process: Process, sending: int) -> NoReturn:
    """The command's process: user, capabilities, directory, and exec. Tells why where that fails."""
    what = "user"
    try:
        for number in (*_FORWARDED, signal.SIGINT):
            signal.signal(number, signal.SIG_DFL)
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
        os.umask(0o022)
        os.dup2(process.stdin, 0)
        os.dup2(process.output, 1)
        user = users.find(process.user)
        what = f"working directory {process.cwd}"
        os.makedirs(process.cwd, exist_ok=True)
        _give_up_capabilities()
        user.become()
        os.chdir(process.cwd)
        env = {**users.environment(user), **process.env}
        what = process.argv[0]
        os.execvpe(process.argv[0], process.argv, env)
    except ImageError as error:
        os.write(sending, str(error).encode("utf-8", "backslashreplace"))
    except OSError as error:
        if what == process.argv[0] and error.errno in (ENOENT, ENOTDIR):
            os.write(sending, f"{what}: no such command in the image".encode("utf-8", "backslashreplace"))
            os._exit(NOT_FOUND)
        _tell(sending, what, error)
        if error.errno in (EACCES, ENOEXEC):
            os._exit(NOT_EXECUTABLE)
    os._exit(FAILED)


def _give_up_capabilities() -> None:
    try:
        libc.reset_securebits()     # a union in this process has changed them (COPY before RUN)
    except PermissionError:
        pass
    for capability in range(_CAPABILITY_BITS):
        if capability not in _CAPABILITIES:
            try:
                libc.drop_from_bounding_set(capability)
            except OSError:
                break  # not permitted, or beyond what this kernel knows
    low = sum(1 << capability for capability in _CAPABILITIES)
    sets = libc.capget()
    for index in range(3):
        sets[index] &= low if index < 2 else 0
        sets[index + 3] = 0
    libc.capset(sets)
