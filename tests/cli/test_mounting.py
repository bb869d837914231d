"""The command on real mounts: all ways to spell one, what it leaves of itself, and every way to get it wrong."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.test_daemon import alive
from tests.lib import kernel
from tests.lib.asuser import ALICE, as_user
from tests.lib.engines import ROOT, is_mounted, wait_until

UNIONFS = "import sys; from unionfs.cli import main; sys.exit(main())"
HELPER = "import sys; from unionfs.cli import mount_helper; sys.exit(mount_helper())"

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")


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

    def run(self, *words: str | Path, program: str = UNIONFS, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
        """Runs a command to its end; whoever keeps its stderr open makes this time out."""
        return subprocess.run(
            [sys.executable, "-bb", "-W", "error", "-c", program, *words], capture_output=True, text=True, timeout=30,
            cwd=cwd or self.base, env={**os.environ, "PYTHONPATH": str(ROOT)}, check=False,
        )  # fmt: skip

    def run_as_alice(self, *words: str | Path) -> subprocess.CompletedProcess[str]:
        """Runs a command as an ordinary user who owns everything below this site."""
        if not self.python:
            self.python = interpreter_for(ALICE)
            shutil.copytree(ROOT / "unionfs", self.base / "code/unionfs", ignore=shutil.ignore_patterns("__pycache__"))
        return as_user(lambda: self._run_as_alice(words))

    def _run_as_alice(self, words: tuple[str | Path, ...]) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [self.python, "-m", "unionfs", *words], capture_output=True, text=True, timeout=30, check=False,
            cwd=self.base, env={"PATH": os.defpath, "PYTHONPATH": str(self.base / "code"), "PYTHONDONTWRITEBYTECODE": "1"},
        )  # fmt: skip

    def give_to_alice(self) -> None:
        for path in [self.base, *self.base.rglob("*")]:
            os.chown(path, ALICE, ALICE)

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


@pytest.fixture
def site() -> Iterator[Site]:
    """In a directory that every user may enter, unlike tmp_path."""
    base = Path(tempfile.mkdtemp(prefix="unionfs-test-"))
    base.chmod(0o755)
    found = Site(base)
    yield found
    found.clean()
    shutil.rmtree(base)


def fields(mountpoint: Path) -> list[str]:
    """The words of its line in /proc/self/mounts."""
    with open("/proc/self/mounts") as mounts:
        return next(line.split() for line in mounts if line.split()[1] == str(mountpoint))


# --- ways to mount -------------------------------------------------------------------------------------------------


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


def test_with_options(site: Site) -> None:
    site.mount("-o", site.options, site.mnt)
    assert_works(site)
    unmount(site)


def test_with_flags(site: Site) -> None:
    base = site.base
    site.mount("--lower", base / "top", "--lower", base / "bottom", "--upper", base / "upper", "--work", base / "work",
               site.mnt)  # fmt: skip
    assert_works(site)
    unmount(site)


def test_with_a_source(site: Site) -> None:
    site.mount("-o", site.options, "my-image", site.mnt)
    assert_works(site, "my-image")


@pytest.mark.parametrize(
    "words",
    [["-o", "OPTIONS", "MNT"], ["image", "MNT", "-o", "OPTIONS,rw,dev,suid"], ["image", "MNT", "-s", "-n", "-o", "OPTIONS"],
     ["image", "MNT", "-v", "-o", "OPTIONS", "-t", "fuse.unionfs"]],
)  # fmt: skip
def test_as_the_mount_helper(site: Site, words: list[str]) -> None:
    argv = [word.replace("OPTIONS", site.options).replace("MNT", str(site.mnt)) for word in words]
    done = site.run(*argv, program=HELPER)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert_works(site, "image" if "image" in words else "unionfs")


def test_the_helper_s_dry_run_mounts_nothing(site: Site) -> None:
    done = site.run("image", site.mnt, "-f", "-o", site.options, program=HELPER)
    assert done.returncode == 0
    assert not is_mounted(str(site.mnt))


@pytest.mark.parametrize("words", [["-o", "OPTIONS", "MNT"], ["overlay", "MNT", "-o", "OPTIONS,dev,suid"]])
def test_as_a_mount_program(site: Site, words: list[str]) -> None:
    """As Podman runs fuse-overlayfs, and as mount.fuse3 runs it for containerd."""
    argv = [word.replace("OPTIONS", site.options).replace("MNT", str(site.mnt)) for word in words]
    assert site.run(*argv).returncode == 0
    assert_works(site, "overlay" if "overlay" in words else "unionfs")


def test_relative_paths_and_symlinks(site: Site) -> None:
    """As Podman's store has it: short symlinks, and a layer beside the one that a symlink leads to."""
    (site.base / "l").mkdir()
    (site.base / "l/X").symlink_to("../top")
    site.mount("-o", "lowerdir=l/X:l/X/../bottom,upperdir=upper,workdir=work", "mnt")
    assert_works(site)


def test_paths_with_all_special_characters(site: Site) -> None:
    odd = site.base / 'a:b,c\\d"e f\n'
    odd.mkdir()
    (odd / "odd").touch()
    text = str(odd).replace("\\", "\\\\").replace(":", "\\:").replace(",", "\\,")
    site.mount("-o", f"lowerdir={text}:{site.base}/top", site.mnt)
    assert sorted(os.listdir(site.mnt)) == ["odd", "t"]


def test_without_upper_it_is_read_only(site: Site) -> None:
    site.mount("-o", site.stack, site.mnt)
    assert fields(site.mnt)[3].split(",")[0] == "ro"
    with pytest.raises(OSError, match="Read-only file system"):
        (site.mnt / "n").touch()


def test_ro_with_upper(site: Site) -> None:
    (site.base / "upper/u").touch()
    site.mount("-o", site.options + ",ro", site.mnt)
    assert sorted(os.listdir(site.mnt)) == ["b", "t", "u"]
    with pytest.raises(OSError, match="Read-only file system"):
        (site.mnt / "n").touch()


def test_mount_flags_are_shown(site: Site) -> None:
    site.mount("-o", site.options + ",nosuid,nodev,noexec,noatime", site.mnt)
    assert {"rw", "nosuid", "nodev", "noexec", "noatime", "default_permissions", "allow_other"} <= set(
        fields(site.mnt)[3].split(",")
    )


def test_nonempty_hides_what_is_there(site: Site) -> None:
    (site.mnt / "hidden").touch()
    site.mount("-o", site.options + ",nonempty", site.mnt)
    assert sorted(os.listdir(site.mnt)) == ["b", "t"]
    unmount(site)
    assert os.listdir(site.mnt) == ["hidden"]


@needs_root
def test_a_private_mount_does_not_propagate(site: Site) -> None:
    site.mount("-o", site.options + ",private", site.mnt)
    with open("/proc/self/mountinfo") as table:
        (line,) = [line for line in table if line.split()[4] == str(site.mnt)]
    assert "shared:" not in line


@needs_root
def test_an_ordinary_user_mounts_through_fusermount3(site: Site) -> None:
    site.give_to_alice()
    assert site.run_as_alice("mount", "-o", site.options, site.mnt).stderr == ""
    assert {"nosuid", "nodev", f"user_id={ALICE}"} <= set(fields(site.mnt)[3].split(","))
    with pytest.raises(PermissionError):
        os.listdir(site.mnt)  # not even root

    def use() -> list[str]:
        (site.mnt / "n").write_text("new")
        os.unlink(site.mnt / "b")
        return sorted(os.listdir(site.mnt))

    assert as_user(use) == ["n", "t"]
    assert site.run_as_alice("umount", site.mnt).stderr == ""
    assert not is_mounted(str(site.mnt))
    assert site.processes() == []


@needs_root
@pytest.mark.parametrize("fstype", ["unionfs", "fuse.unionfs"])
def test_mount_8_finds_the_helper(site: Site, fstype: str) -> None:
    """With the links where mount(8) looks for them: in a mount namespace whose /sbin is ours to write."""
    scripts = site.base / "bin"
    scripts.mkdir()
    for name, function in (("unionfs", "main"), ("mount.unionfs", "mount_helper")):
        (scripts / name).write_text(
            f"#!{sys.executable}\nimport sys\nsys.path.insert(0, {str(ROOT)!r})\n"
            f"from unionfs.cli import {function}\nsys.exit({function}())\n"
        )
        (scripts / name).chmod(0o755)
    sbin = os.path.realpath("/sbin")
    (site.base / "sbin").mkdir()
    script = f"""set -eu
        mount --make-rprivate /
        mount -t tmpfs tmpfs {site.base}/sbin
        mkdir {site.base}/sbin/u {site.base}/sbin/w
        mount -t overlay overlay -o lowerdir={sbin},upperdir={site.base}/sbin/u,workdir={site.base}/sbin/w {sbin}
        rm -f {sbin}/mount.unionfs  # Debian's package unionfs-fuse has one
        {scripts}/unionfs install-helper
        mount -t {fstype} my-layers {site.mnt} -o {site.options},nosuid
        cat {site.mnt}/b
        echo; grep " {site.mnt} " /proc/mounts
        umount {site.mnt}
    """
    done = subprocess.run(["unshare", "--mount", "sh", "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    *_, content, line = done.stdout.splitlines()
    assert content == "bottom"
    assert line.startswith(f"my-layers {site.mnt} fuse.unionfs rw,nosuid,")


# --- the daemon --------------------------------------------------------------------------------------------------------


def test_the_daemon_keeps_nothing_of_its_parent(site: Site) -> None:
    pid = site.mount("-o", site.options, site.mnt)
    assert os.readlink(f"/proc/{pid}/cwd") == "/"
    assert [os.readlink(f"/proc/{pid}/fd/{fd}") for fd in range(3)] == ["/dev/null"] * 3
    assert os.getsid(pid) == pid
    links = [os.readlink(f"/proc/{pid}/fd/{fd}") for fd in os.listdir(f"/proc/{pid}/fd")]
    assert not [link for link in links if link.startswith("pipe:") or link == str(site.mnt)]
    assert "Umask:\t0000" in Path(f"/proc/{pid}/status").read_text()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_unmounts(site: Site, number: signal.Signals) -> None:
    pid = site.mount("-o", site.options, site.mnt)
    (site.mnt / "n").write_text("new")
    os.kill(pid, number)
    wait_until(lambda: not alive(pid), "the end of the daemon")
    assert not is_mounted(str(site.mnt))
    assert (site.base / "upper/n").read_text() == "new"


def test_a_signal_lets_open_files_be_finished_with(site: Site) -> None:
    pid = site.mount("-o", site.options, site.mnt)
    with open(site.mnt / "b", "r+") as file:
        os.kill(pid, signal.SIGTERM)
        wait_until(lambda: not is_mounted(str(site.mnt)), "the detached mount")
        assert file.read() == "bottom"
        file.write(" and more")
        assert alive(pid)
    wait_until(lambda: not alive(pid), "the end of the daemon")
    assert (site.base / "upper/b").read_text() == "bottom and more"


def test_counters_on_request(site: Site) -> None:
    pid = site.mount("-o", site.options, site.mnt)
    with open(site.mnt / "b", "a") as file:
        file.write("!")
    os.kill(pid, signal.SIGUSR1)
    wait_until(lambda: "copy_ups=" in site.log.read_text(), "the counters in the log")
    assert re.search(r" copy_ups=1\b", site.log.read_text())


def test_unmounting_waits_so_that_the_upper_is_free(site: Site) -> None:
    for _ in range(5):
        site.mount("-o", site.options, site.mnt)
        unmount(site)


def test_a_busy_mount_stays_unless_lazy(site: Site) -> None:
    pid = site.mount("-o", site.options, site.mnt)
    with open(site.mnt / "b") as file:
        done = site.run("umount", site.mnt)
        assert done.returncode == 1
        assert "busy" in done.stderr
        assert "--lazy" in done.stderr
        assert is_mounted(str(site.mnt))
        assert site.run("umount", "--lazy", site.mnt).returncode == 0
        assert not is_mounted(str(site.mnt))
        assert file.read() == "bottom"
    wait_until(lambda: not alive(pid), "the end of the daemon")


def test_a_dead_mount_is_explained_and_taken_away(site: Site) -> None:
    pid = site.mount("-o", site.options, site.mnt)
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: not alive(pid), "the end of the daemon")
    done = site.run("mount", "-o", site.options, site.mnt)
    assert done.returncode == 1
    assert "a mount whose daemon died is there; unionfs umount" in done.stderr
    unmount(site)
    site.mount("-o", site.options, site.mnt)
    assert_works(site)


def test_in_the_foreground(site: Site) -> None:
    process = site.foreground("-f", "-o", site.options, site.mnt)
    assert_works(site)
    process.send_signal(signal.SIGINT)
    assert process.wait(20) == 0
    assert not is_mounted(str(site.mnt))


def test_debug_shows_requests_and_replies(site: Site) -> None:
    process = site.foreground("-d", "-o", site.options, site.mnt)
    assert (site.mnt / "b").read_text() == "bottom"
    assert not (site.mnt / "missing").exists()
    unmount(site)
    assert process.wait(20) == 0
    lines = site.log.read_text().splitlines()
    assert [line for line in lines if "LOOKUP" in line and "missing" in line]
    assert [line for line in lines if "OPEN" in line]


def test_mounted_within_150_ms(site: Site) -> None:
    """From the start of the command to its success; the best of some, with compiled modules as installed ones have."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONPYCACHEPREFIX": str(site.base / "compiled")}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    seconds = []
    for _ in range(8):
        start = time.perf_counter()
        subprocess.run([sys.executable, "-m", "unionfs", "mount", "-o", site.options, site.mnt], env=environment, check=True)
        seconds.append(time.perf_counter() - start)
        unmount(site)
    assert min(seconds) < 0.150


# --- mistakes ----------------------------------------------------------------------------------------------------------


def test_a_missing_layer(site: Site) -> None:
    site.refused("mount", "-o", f"lowerdir={site.base}/none", site.mnt, message="/none: does not exist")


def test_a_layer_that_is_a_file(site: Site) -> None:
    (site.base / "file").touch()
    site.refused("mount", "-o", f"lowerdir={site.base}/file", site.mnt, message="/file: .*not a directory")


@needs_root
def test_an_unreadable_layer(site: Site) -> None:
    site.give_to_alice()
    (site.base / "bottom").chmod(0o300)
    done = site.run_as_alice("mount", "-o", site.options, site.mnt)
    assert done.returncode == 1
    assert re.search(r"^unionfs: .*/bottom: (cannot be read|.*ermission)", done.stderr)
    assert not is_mounted(str(site.mnt))
    assert site.processes() == []


def test_upper_without_work(site: Site) -> None:
    site.refused("mount", "-o", f"{site.stack},upperdir={site.base}/upper", site.mnt, message="upperdir .*without workdir")
    site.refused("mount", "-o", f"{site.stack},workdir={site.base}/work", site.mnt, message="workdir .*without upperdir")


def test_no_layers_at_all(site: Site) -> None:
    site.refused("mount", site.mnt, message="lowerdir=")


@needs_root
def test_work_on_another_file_system(site: Site) -> None:
    kernel.mount("tmpfs", str(site.base / "work"), "tmpfs", "")
    site.refused("mount", "-o", site.options, site.mnt, message="work.* not on the file system of .*upper")


def test_upper_in_use(site: Site) -> None:
    site.mount("-o", site.options, site.mnt)
    (site.base / "other").mkdir()
    (site.base / "work2").mkdir()
    done = site.run("mount", "-o", site.options.replace("/work", "/work2"), site.base / "other")
    assert done.returncode == 1
    assert re.search("upperdir .*/upper is in use", done.stderr)
    assert not is_mounted(str(site.base / "other"))


@needs_root
def test_upper_in_use_by_the_kernel(site: Site) -> None:
    (site.base / "other").mkdir()
    kernel.mount("overlay", str(site.base / "other"), "overlay", site.options)
    site.refused("mount", "-o", site.options, site.mnt, message="is in use")


def test_overlapping_layers(site: Site) -> None:
    (site.base / "top/inner").mkdir()
    site.refused("mount", "-o", f"lowerdir={site.base}/top:{site.base}/top", site.mnt, message="the same directory")
    site.refused("mount", "-o", f"lowerdir={site.base}/top:{site.base}/top/inner", site.mnt, message="overlap")
    site.refused("mount", "-o", site.options.replace("/work", "/upper/work"), site.mnt, message="work|upper")


def test_the_mount_point_inside_a_layer(site: Site) -> None:
    (site.base / "top/m").mkdir()
    site.refused("mount", "-o", site.options, site.base / "top/m", message="mount point .*inside")


def test_a_layer_inside_the_mount_point(site: Site) -> None:
    (site.mnt / "layer").mkdir()
    site.refused("mount", "-o", f"lowerdir={site.mnt}/layer", site.mnt, message="inside the mount point")
    site.refused("mount", "-o", f"lowerdir={site.mnt}", site.mnt, message="mount point")


def test_bad_mount_points(site: Site) -> None:
    (site.base / "file").touch()
    site.refused("mount", "-o", site.options, site.base / "none", message="mount point .*/none: no such directory")
    site.refused("mount", "-o", site.options, site.base / "file", message="mount point .*/file: not a directory")
    (site.mnt / "entry").touch()
    site.refused("mount", "-o", site.options, site.mnt, message="mount point .*/mnt is not empty")


def test_an_unknown_option(site: Site) -> None:
    site.refused("mount", "-o", site.options + ",volatil", site.mnt, code=2,
                 message="unknown option 'volatil'; did you mean 'volatile'?")  # fmt: skip


def test_a_log_that_cannot_be_written(site: Site) -> None:
    site.refused("mount", "--log", site.base / "none/log", "-o", site.options, site.mnt, message="log file .*none/log")


def in_a_namespace(site: Site, preparation: str, words: str) -> subprocess.CompletedProcess[str]:
    """Runs the command where /dev has only what `preparation` makes there."""
    script = f"""set -eu
        mount --make-rprivate /
        mount -t tmpfs tmpfs /dev
        mknod -m 666 /dev/null c 1 3
        mknod -m 666 /dev/urandom c 1 9
        {preparation}
        {words}
    """
    return subprocess.run(["unshare", "--mount", "sh", "-c", script], capture_output=True, text=True, check=False,
                          cwd=site.base, env={**os.environ, "PYTHONPATH": str(ROOT)})  # fmt: skip


@needs_root
def test_no_fuse_device(site: Site) -> None:
    done = in_a_namespace(site, "", f"{sys.executable} -m unionfs mount -o {site.options} {site.mnt}")
    assert done.returncode == 1
    assert done.stderr.startswith("unionfs: /dev/fuse is missing; ")
    assert done.stderr.count("\n") == 1
    assert site.processes() == []


@needs_root
def test_a_fuse_device_that_is_not_permitted(site: Site) -> None:
    """Its node lies on a file system mounted nodev, which forbids opening it, as a container's device rules do."""
    preparation = "mknod -m 600 /dev/fuse c 10 229; mount -o remount,nodev /dev"
    done = in_a_namespace(site, preparation, f"{sys.executable} -m unionfs mount -f -o {site.options} {site.mnt}")
    assert done.returncode == 1
    assert done.stderr.startswith("unionfs: /dev/fuse may not be opened by you; ")
    assert done.stderr.count("\n") == 1
