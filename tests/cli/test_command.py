"""The commands' own arguments and checks, without a mount."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.lib.engines import ROOT
from unionfs import __version__, fusepy_front, server
from unionfs.cli import (
    COMMANDS,
    checks,
    daemon,
    lifeline,
    main,
    mount,
    mount_helper,
    mounts,
    serve,
    umount_helper,
    utab,
    watch,
)  # fmt: skip
from unionfs.cli.errors import CommandError
from unionfs.cli.log import Log
from unionfs.cli.options import MS_RDONLY, MountOptions
from unionfs.device import MountError
from unionfs.union.config import Config


def words(line: str) -> list[bytes]:
    return [word.encode() for word in line.split()]


def plan(line: str) -> mount.Plan:
    found = mount.read_plan(words(line), mount._COMMAND_FLAGS)
    assert found is not None
    return found


def helper_plan(line: str) -> mount.Plan:
    found = mount.read_plan(words(line), mount._HELPER_FLAGS)
    assert found is not None
    return found


# --- unionfs -----------------------------------------------------------------------------------------------


def test_every_command_has_its_module() -> None:
    assert [name for name, (module, _) in COMMANDS.items() if find_spec(module) is None] == []


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"unionfs {__version__}\n"


def test_overview_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    out = capsys.readouterr().out
    assert all(f"\n  {name} " in out for name in COMMANDS)


@pytest.mark.parametrize("command", ["mount", "umount", "install-helper"])
def test_every_command_explains_itself(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([command, "--help"]) == 0
    assert capsys.readouterr().out.startswith(f"usage: unionfs {command} ")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("monut /m", "unknown command 'monut'; did you mean 'mount'?"),
        ("xyz", "unknown command 'xyz'; see unionfs --help"),
        ("mount", "no mount point given"),
        ("mount a b c", "too many arguments: 'c'"),
        ("mount --uper /u /m", "unknown flag --uper; did you mean --upper?"),
        ("mount --frontend c /m", "option frontend: must be auto, kernel or fusepy, not 'c'"),
        ("mount -o lowerdirr=/a /m", "unknown option 'lowerdirr'; did you mean 'lowerdir'?"),
        ("umount", "umount needs a mount point"),
        ("install-helper /sbin", "install-helper takes no '/sbin'"),
    ],
)
def test_misspelled_commands(line: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(line.split()) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("unionfs: ")
    assert message in captured.err
    assert captured.err.count("\n") == 1
    assert captured.out == ""


# --- mount -------------------------------------------------------------------------------------------------


def test_flags_and_options_say_the_same() -> None:
    flags = plan("--lower A --lower=B --data D --upper U --work W MNT").config
    options = plan("-o lowerdir=A:B::D,upperdir=U,workdir=W MNT").config
    assert all(getattr(flags, name) == getattr(options, name) for name in flags.__slots__)


def test_flags_take_paths_as_they_are() -> None:
    assert plan(r"--lower a:b\,c --upper u,v MNT").config.lower == [rb"a:b\,c"]


def test_source_and_mount_point() -> None:
    assert (plan("MNT").mount.source, plan("MNT").mountpoint) == (b"unionfs", b"MNT")
    assert (plan("img MNT").mount.source, plan("img MNT").mountpoint) == (b"img", b"MNT")
    assert plan("--source img MNT").mount.source == b"img"
    assert plan("-o fsname=img MNT").mount.source == b"img"


def test_what_mount_8_passes() -> None:
    found = helper_plan("img /m -n -s -v -o rw,lowerdir=/a:/b,dev,suid -t fuse.unionfs")
    assert (found.mount.source, found.mountpoint, found.fake) == (b"img", b"/m", False)
    assert (found.config.lower, found.mount.flags) == ([b"/a", b"/b"], 0)
    assert helper_plan("img /m -f -o ro").fake
    assert helper_plan("img /m -r").mount.flags == MS_RDONLY


def test_what_podman_passes() -> None:
    line = "-o lowerdir=/s/l/X:/s/l/X/../diff1,upperdir=/s/1/diff,workdir=/s/1/work,,volatile /s/1/merged"
    found = plan(line)
    assert found.config.lower == [b"/s/l/X", b"/s/l/X/../diff1"]
    assert found.config.volatile


# --- checks ------------------------------------------------------------------------------------------------


def test_a_mount_point_is_resolved(tmp_path: Path) -> None:
    (tmp_path / "m").mkdir()
    (tmp_path / "link").symlink_to("m")
    assert checks.mountpoint(os.fsencode(tmp_path / "link")) == os.fsencode(tmp_path.resolve() / "m")


def test_bad_mount_points(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for name, message in [("missing", "no such directory; make it first"), ("file", "not a directory")]:
        with pytest.raises(CommandError, match=message):
            checks.mountpoint(os.fsencode(tmp_path / name))
    with pytest.raises(CommandError, match="is not empty; empty it, or hide that with -o nonempty"):
        checks.empty(os.fsencode(tmp_path))


# --- umount -------------------------------------------------------------------------------------


def test_umount_where_nothing_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["umount", str(tmp_path)]) == 1
    assert capsys.readouterr().err == f"unionfs: {tmp_path} is not a mount point\n"


def test_other_mounts_are_not_ours_to_unmount(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["umount", "/proc"]) == 1
    assert capsys.readouterr().err == "unionfs: /proc is a mount of type proc, not ours; use umount\n"


def test_what_umount_8_passes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    nothing = f"unionfs: {tmp_path} is not a mount point\n"
    for flags in ([], ["-n", "-v", "-r", "-t", "fuse.unionfs"], ["-fl"]):
        assert umount_helper([str(tmp_path), *flags]) == 32
        assert capsys.readouterr().err == nothing
    assert umount_helper([str(tmp_path), "-N", "/proc/1/ns/mnt"]) == 1
    assert "nsenter --mount" in capsys.readouterr().err


def test_helpers_have_the_exit_codes_of_mount_8(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    missing = str(tmp_path / "missing")
    assert mount_helper(["source", missing, "-o", "lowerdir=/a"]) == 32
    assert mount_helper(["source", missing, "-o", "lowerdirr=/a"]) == 1
    assert umount_helper([]) == 1
    assert capsys.readouterr().err.count("\n") == 3


LINE = rb"57 25 0:49 / /mnt/a\040b\134c rw,relatime shared:7 - fuse.unionfs img rw,user_id=4001,group_id=0" + b"\n"


def test_a_line_of_the_kernel_s_table() -> None:
    found = mounts.Mount(LINE)
    assert (found.device, found.path) == (b"0:49", rb"/mnt/a\040b\134c")
    assert (found.fstype, found.source, found.owner) == (b"fuse.unionfs", b"img", 4001)
    assert mounts.Mount(LINE.replace(b"user_id=4001,", b"")).owner == -1


def test_a_mount_is_found_at_its_place(tmp_path: Path) -> None:
    found = mounts.topmost(b"/proc")
    assert found is not None
    st = os.stat("/proc")
    assert (found.fstype, found.device) == (b"proc", b"%d:%d" % (os.major(st.st_dev), os.minor(st.st_dev)))
    assert mounts.topmost(b"/no/mount") is None
    (tmp_path / "link").symlink_to("/proc")
    for path in ("/proc", "/proc/", "/./proc", str(tmp_path / "link"), "/proc/self/.."):
        real, mount = mounts.locate(os.fsencode(path))
        assert mount is not None
        assert (real, mount.fstype) == (b"/proc", b"proc"), path
    assert mounts.locate(os.fsencode(tmp_path)) == (os.fsencode(tmp_path.resolve()), None)


def line_of(owner: int) -> mounts.Mount:
    """A mount that nobody else has."""
    return mounts.Mount(LINE.replace(b"0:49", b"0:%d" % os.getpid()).replace(b"=4001", b"=%d" % owner))


def test_waiting_ends_with_the_holder() -> None:
    ours = line_of(os.geteuid())
    assert lifeline.grasp(ours) == [], "nobody holds it"
    holder = lifeline.hold(ours)
    assert holder is not None
    (waiter,) = lifeline.grasp(ours)
    holder.close()
    assert lifeline.wait(waiter)
    assert lifeline.grasp(ours) == [], "nobody holds it any more"


def test_a_stranger_s_lifeline_is_none() -> None:
    """Whoever did not mount it cannot make its unmount wait."""
    with lifeline.hold(line_of(os.geteuid())) or pytest.fail("no socket"):
        assert lifeline.grasp(line_of(os.geteuid() + 1)) == []


def test_lines_in_libmount_s_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ours come and go, the others stay."""
    helper, table = tmp_path / "umount.fuse.unionfs", tmp_path / "run/utab"
    monkeypatch.setattr(utab, "HELPER", str(helper))
    monkeypatch.setattr(utab, "TABLE", str(table))
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    mount = mounts.Mount(LINE)
    utab.add(mount)
    utab.remove(mount)
    assert not table.exists(), "without a helper there is nothing to be found"
    helper.touch(0o755)
    utab.add(mount)
    assert table.read_text() == "SRC=img TARGET=/mnt/a\\040b\\134c ROOT=/\n"
    others = "SRC=/dev/sda1 TARGET=/mnt ROOT=/ OPTS=x-other\n"
    table.write_text(others + table.read_text())
    utab.add(mount)
    utab.remove(mount)
    assert table.read_text() == others
    assert sorted(os.listdir(table.parent)) == ["utab", "utab.lock"]
    assert stat.S_IMODE(table.stat().st_mode) == 0o644


# --- install-helper -------------------------------------------------------------------------------


@pytest.fixture
def scripts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An installation's directory of console scripts, in place of this one's."""
    directory = tmp_path / "venv" / "bin"
    directory.mkdir(parents=True)
    for name in ("unionfs", "mount.unionfs", "umount.unionfs"):
        (directory / name).touch(mode=0o755)
    monkeypatch.setattr(sys, "argv", [str(directory / "unionfs")])
    return directory


def test_install_and_uninstall(scripts: Path, tmp_path: Path) -> None:
    prefix = tmp_path / "sbin"
    prefix.mkdir()
    assert main(["install-helper", "--prefix", str(prefix)]) == 0
    assert main(["install-helper", "--prefix", str(prefix)]) == 0, "twice is as good as once"
    assert {link.name: os.readlink(link) for link in prefix.iterdir()} == {
        "unionfs": str(scripts / "unionfs"),
        "mount.unionfs": str(scripts / "mount.unionfs"),
        "mount.fuse.unionfs": str(scripts / "mount.unionfs"),
        "umount.unionfs": str(scripts / "umount.unionfs"),
        "umount.fuse.unionfs": str(scripts / "umount.unionfs"),
    }
    assert main(["install-helper", "--prefix", str(prefix), "--uninstall"]) == 0
    assert list(prefix.iterdir()) == []


FOREIGN = {
    "mount.unionfs": "use mount -t fuse.unionfs",
    "umount.fuse.unionfs": "umount will not wait for the daemon",
    "unionfs": "as a mount_program name this one by its whole path",
}


@pytest.mark.parametrize("name", FOREIGN)
@pytest.mark.parametrize("as_link", [False, True])
def test_what_is_not_ours_stays(
    scripts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, as_link: bool
) -> None:
    """As the mount.unionfs of Debian's package unionfs-fuse: the others are linked, and what lacks is said."""
    prefix, other = tmp_path / "sbin", tmp_path / "another-program"
    prefix.mkdir()
    other.write_text("not ours")
    (prefix / name).symlink_to(other) if as_link else other.rename(prefix / name)
    assert main(["install-helper", "--prefix", str(prefix)]) == 0
    said = capsys.readouterr().err
    assert said.startswith(f"unionfs: {prefix / name} belongs to another program and stays; {FOREIGN[name]}")
    assert said.count("\n") == 1
    assert len(list(prefix.iterdir())) == 5
    assert main(["install-helper", "--prefix", str(prefix), "--uninstall"]) == 0
    assert [path.name for path in prefix.iterdir()] == [name]
    assert (prefix / name).read_text() == "not ours"


def test_without_the_one_link_that_nothing_replaces_it_fails(
    scripts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mount.fuse.unionfs").write_text("another program")
    assert main(["install-helper", "--prefix", str(tmp_path)]) == 1
    assert capsys.readouterr().err.endswith("/mount.fuse.unionfs belongs to another program; remove it first\n")


def test_a_stale_link_is_replaced(scripts: Path, tmp_path: Path) -> None:
    (tmp_path / "mount.unionfs").symlink_to("/gone/bin/mount.unionfs")
    assert main(["install-helper", "--prefix", str(tmp_path)]) == 0
    assert os.readlink(tmp_path / "mount.unionfs") == str(scripts / "mount.unionfs")


def test_a_missing_prefix(scripts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["install-helper", "--prefix", str(tmp_path / "no")]) == 1
    assert f"{tmp_path}/no/" in capsys.readouterr().err


# --- the house ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("script", [*sorted(os.listdir(ROOT / "tools")), "../.ci/run"])
def test_scripts_parse_and_may_be_run(script: str) -> None:
    path = ROOT / "tools" / script
    shell = "bash" if script == "../.ci/run" else "sh"
    assert path.stat().st_mode & stat.S_IXUSR
    subprocess.run([shell, "-n", path], check=True)


def test_find_python_refuses_an_old_one(tmp_path: Path) -> None:
    """With nothing but an old Python on the path it says what is needed."""
    old = tmp_path / "python3"
    old.write_text("#!/bin/sh\nexit 1\n")
    old.chmod(0o755)
    script = (ROOT / "tools/find-python").read_text().replace(" /usr/bin/python3.11 /usr/bin/python3", "")
    command = ["/bin/sh", "-c", script]
    done = subprocess.run(command, env={"PATH": str(tmp_path)}, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert "Python 3.11 or newer is needed" in done.stderr


# --- the choice of a front end ---------------------------------------------------------------------------------------


class NoSpeaker:
    """A session of front end A with a kernel that it does not understand."""

    passthrough = ""

    def run(self, ready: object) -> None:
        raise MountError("no agreement with the kernel: it speaks 7.23")


class Listener(daemon.Report):
    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)


@pytest.fixture
def old_kernel(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """Where front end A cannot run; the mount points that front end B was asked to serve."""
    served: list[bytes] = []
    monkeypatch.setattr(server, "mount", lambda *_, **__: NoSpeaker())
    monkeypatch.setattr(fusepy_front, "serve", lambda _union, mountpoint, **_: served.append(mountpoint))
    monkeypatch.setattr(watch, "block", lambda: None)
    return served


def serve_empty(base: Path, frontend: str, report: daemon.Report) -> None:
    for name in ("lower", "mnt"):
        (base / name).mkdir()
    mount_options = MountOptions()
    mount_options.frontend = frontend
    directory = os.getcwd()
    try:
        config = Config(lower=[os.fsencode(base / "lower")])
        serve.run(config, mount_options, os.fsencode(base / "mnt"), report, Log())
    finally:
        os.chdir(directory)


def test_where_the_kernel_is_too_old_libfuse_serves_and_that_is_said(old_kernel: list[bytes], tmp_path: Path) -> None:
    listener = Listener()
    serve_empty(tmp_path, "auto", listener)
    assert old_kernel == [os.fsencode(tmp_path / "mnt")]
    (note,) = listener.notes
    assert note.startswith("no agreement with the kernel: it speaks 7.23; serving through libfuse (fusepy) instead")


def test_who_insists_on_the_kernel_front_end_gets_an_error(old_kernel: list[bytes], tmp_path: Path) -> None:
    with pytest.raises(CommandError, match=r"it speaks 7\.23"):
        serve_empty(tmp_path, "kernel", Listener())
    assert old_kernel == []
