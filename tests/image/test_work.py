"""Mounting, running, committing: what is done in an image's tree, with images that Docker built, checked by Docker."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.image import programs
from tests.image.programs import DEADLINE, Docker, unionfs
from tests.lib import tree
from unionfs.image import upper_diff, writable
from unionfs.image.find import find
from unionfs.image.store import Store

CHANGES = """
set -e
echo more >> /d/e/f; rm /old/n; echo o > /old/other; ln -s target /link; mkfifo /pipe
chown 7:8 /etc/empty; chmod 2750 /tmp; mkdir /deep; mkdir /deep/er; echo x > /deep/er/x; ln /deep/er/x /deep/y
touch -d '2003-04-05 06:07:08' /deep/y
"""


def mounted(path: Path) -> bool:
    return any(line.split(" ")[4] == str(path) for line in Path("/proc/self/mountinfo").read_text().splitlines())


def eventually(what: Callable[[], bool]) -> bool:
    end = time.monotonic() + DEADLINE
    while time.monotonic() < end:
        if what():
            return True
        time.sleep(0.02)
    return False


def umount(path: Path) -> None:
    subprocess.run([sys.executable, "-m", "unionfs", "umount", path], check=True, timeout=60)


@pytest.fixture
def mnt(tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "mnt"
    path.mkdir()
    yield path
    if mounted(path):
        umount(path)


@pytest.fixture
def loaded(saved: Path, store: Path) -> Path:
    unionfs("load", saved, store=store)
    return store


def run(store: Path, *words: str, code: int = 0) -> str:
    command = [sys.executable, "-bb", "-W", "error", "-m", "unionfs", "run", "--store", str(store), *words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == code, f"{words}: {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout if code in (0, 7) else done.stderr


def leftovers(store: Path) -> list[str]:
    return os.listdir(store / "writable") + os.listdir(store / "tmp") if (store / "writable").exists() else []


def test_a_mount_shows_what_docker_shows(docker: Docker, built: str, loaded: Path, mnt: Path, tmp_path: Path) -> None:
    unionfs("mount", built, mnt, store=loaded)
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    lowers = ":".join(str(path) for path in reversed(docker.layers(built)))
    subprocess.run(["mount", "-t", "overlay", "overlay", "-o", f"ro,lowerdir={lowers}", theirs], check=True)
    try:
        ours, docks = tree.snapshot(str(mnt)), tree.snapshot(str(theirs))
    finally:
        subprocess.run(["umount", theirs], check=True)
    del ours[b""], docks[b""]
    for facts in (*ours.values(), *docks.values()):
        facts["mtime"] = int(str(facts["mtime"])) // 10**9
    tree.assert_same(ours, docks)
    with pytest.raises(OSError, match="Read-only"):
        (mnt / "new").write_text("")


def test_gc_keeps_mounted_layers(built: str, loaded: Path, mnt: Path) -> None:
    unionfs("mount", built, mnt, store=loaded)
    for name in (built, "base:1"):
        unionfs("rm", name, store=loaded)
    unionfs("gc", store=loaded)
    assert (mnt / "bin/busybox").read_bytes()
    umount(mnt)
    unionfs("gc", store=loaded)
    assert os.listdir(loaded / "layers") == []


def test_a_throwaway_layer_goes_with_its_mount(built: str, loaded: Path, mnt: Path) -> None:
    unionfs("mount", built, mnt, "--rw", store=loaded)
    (mnt / "new").write_text("x")
    assert unionfs("diff", mnt, store=loaded) == "A /new\n"
    assert "no" in unionfs("writable", store=loaded)
    umount(mnt)
    assert leftovers(loaded) == []
    unionfs("diff", mnt, store=loaded, fails=2)


def test_a_kept_layer_stays(built: str, loaded: Path, mnt: Path) -> None:
    unionfs("mount", built, mnt, "--keep", "mine", store=loaded)
    (mnt / "new").write_text("x")
    assert "in use" in unionfs("writable", "--rm", "mine", store=loaded, fails=1)
    umount(mnt)
    unionfs("rm", built, store=loaded)
    unionfs("gc", store=loaded)
    assert unionfs("diff", "mine", store=loaded) == "A /new\n"
    unionfs("writable", "--rm", "mine", store=loaded)
    assert leftovers(loaded) == []


def test_a_killed_daemon_leaves_what_gc_removes(built: str, loaded: Path, mnt: Path) -> None:
    unionfs("mount", built, mnt, "--rw", store=loaded)
    daemon = next(pid for pid in os.listdir("/proc") if pid.isdigit() and pid != str(os.getpid())
                  and str(mnt).encode() in _cmdline(pid))  # fmt: skip
    os.kill(int(daemon), signal.SIGKILL)
    assert eventually(lambda: not _cmdline(daemon))
    subprocess.run(["umount", mnt], check=True)
    assert leftovers(loaded)
    unionfs("gc", store=loaded)
    assert leftovers(loaded) == []


def _cmdline(pid: str) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return b""


def test_run_has_what_the_image_says(built: str, loaded: Path) -> None:
    said = run(loaded, built, "echo $X; pwd; stat -Lc %u:%g /proc/self; echo $PATH; cd /; echo *")
    lines = said.splitlines()
    assert lines[:3] == ["1", "/w", "5:6"]
    assert lines[3] == "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    assert {"proc", "sys", "dev"} <= set(lines[4].split())
    assert run(loaded, built) == "hello\n"
    assert run(loaded, "-u", "0:0", "-e", "X=2", "-w", "/new/dir", built, "echo $X; pwd; stat -Lc %u /proc/self") == (
        "2\n/new/dir\n0\n")  # fmt: skip
    assert leftovers(loaded) == []


def test_run_tells_how_it_ended(built: str, loaded: Path) -> None:
    assert run(loaded, "--entrypoint", "/bin/sh", built, "-c", "exit 7", code=7) == ""
    run(loaded, built, "kill -9 $$", code=137)
    assert "no such command" in run(loaded, "--entrypoint", "/bin/nothing", built, code=127)
    assert "/etc/empty" in run(loaded, "--entrypoint", "/etc/empty", built, code=126)
    assert "no user" in run(loaded, "-u", "nobody-here", built, code=125)
    assert leftovers(loaded) == []


def test_run_is_shut_in(built: str, loaded: Path, tmp_path: Path) -> None:
    """Other processes and the host's files are not seen, and root can do what Docker lets it do."""
    said = run(loaded, "-u", "0", built, f"echo /proc/[0-9]*; ls -d {tmp_path} || echo none; cat /proc/self/status")
    lines = said.splitlines()
    assert len(lines[0].split()) <= 3
    assert lines[1] == "none"
    capabilities = dict(line.split("\t", 1) for line in lines if line.startswith("Cap"))
    assert {capabilities[f"Cap{kind}:"] for kind in ("Prm", "Eff", "Bnd")} == {"00000000a80425fb"}      # Docker's


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_run_leaves_nothing_when_it_is_killed(built: str, loaded: Path, number: int) -> None:
    forever = "echo up; while true; do sleep 1; done"
    command = [sys.executable, "-m", "unionfs", "run", "--store", str(loaded), built, forever]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"up\n"
        process.send_signal(number)
        process.wait(DEADLINE)
    assert eventually(lambda: leftovers(loaded) == [])
    assert str(loaded) not in Path("/proc/self/mountinfo").read_text()


def test_diff_says_what_docker_says(docker: Docker, built: str, loaded: Path) -> None:
    run(loaded, "--keep", "mine", "-u", "0", built, CHANGES)
    ours = unionfs("diff", "mine", store=loaded).splitlines()
    docker("run", "--name", "diffed", "--network=none", "-u", "0", built, CHANGES)
    try:
        theirs = docker("diff", "diffed").splitlines()
    finally:
        docker("rm", "diffed")
    assert sorted(set(ours) ^ set(theirs)) == ["A /v"]        # the place of a volume: Docker mounts one


def test_what_an_opaque_directory_hides_is_removed(tmp_path: Path) -> None:
    upper, lower = tmp_path / "upper", tmp_path / "lower"
    for path in (upper / "d", lower / "d"):
        path.mkdir(parents=True)
    for name in ("d/one", "d/two"):
        (lower / name).write_text("")
    (upper / "d/two").write_text("new")
    os.setxattr(upper / "d", "trusted.overlay.opaque", b"y")
    found = {(change.kind, change.path) for change in upper_diff.changes(str(upper), [str(lower)])}
    assert found == {("C", b"/d"), ("C", b"/d/two"), ("D", b"/d/one")}


def overlay_tree(lowers: list[Path], place: Path) -> tree.Snapshot:
    """What the kernel's overlay shows of layers, top first."""
    place.mkdir()
    subprocess.run(["mount", "-t", "overlay", "overlay", "-o", "ro,lowerdir=" + ":".join(map(str, lowers)), place],
                   check=True)  # fmt: skip
    try:
        return tree.snapshot(str(place))
    finally:
        subprocess.run(["umount", place], check=True)


def test_from_docker_and_back_nothing_is_lost(docker: Docker, built: str, loaded: Path, mnt: Path,
                                              tmp_path: Path) -> None:
    """Built by Docker, saved, loaded, mounted, changed, committed, saved; read by Docker, skopeo and buildah."""
    programs.need("skopeo", "buildah", "umoci")
    unionfs("mount", built, mnt, "--rw", store=loaded)
    change(mnt)
    wanted = tree.snapshot(str(mnt))
    unionfs("commit", mnt, "changed:1", "-m", "changed by hand", "-a", "somebody", store=loaded)
    umount(mnt)

    unionfs("mount", "changed:1", mnt, store=loaded)
    tree.assert_same(wanted, tree.snapshot(str(mnt)), names="before committed")
    umount(mnt)

    out = tmp_path / "out.tar"
    unionfs("save", "changed:1", "-o", out, store=loaded)
    docker("load", "-i", out)
    try:
        theirs = overlay_tree(docker.layers("changed:1")[::-1], tmp_path / "docker")
        assert docker.inspect("changed:1")["RootFS"]["Layers"] == find(Store(str(loaded)), "changed:1").diff_ids
        assert docker.inspect("changed:1")["Config"] == docker.inspect(built)["Config"]
        assert docker("run", "--rm", "--network=none", "changed:1", "cat /new/file") == "new\n"
        past = [json.loads(line) for line in
                docker("history", "--no-trunc", "--format", "{{json .}}", "changed:1").splitlines()]
        assert past[0]["Comment"] == "changed by hand"
        assert len(past) == len(docker("history", "-q", built).splitlines()) + 1
    finally:
        docker("rmi", "changed:1")
    assert_same_below_the_root(wanted, theirs)

    layout = tmp_path / "layout"
    programs.run("skopeo", "copy", "--quiet", f"oci-archive:{out}", f"oci:{layout}:1")
    programs.run("umoci", "unpack", "--image", f"{layout}:1", tmp_path / "bundle")
    unpacked = tree.snapshot(str(tmp_path / "bundle/rootfs"))
    assert_same_below_the_root(wanted, unpacked)
    again = tmp_path / "again"
    unionfs("load", layout, "--name", "changed:2", store=again)
    assert find(Store(str(again)), "changed:2").config_digest == find(Store(str(loaded)), "changed:1").config_digest

    environment = {**os.environ, "STORAGE_DRIVER": "vfs"}
    place = ["--root", str(tmp_path / "b/root"), "--runroot", str(tmp_path / "b/run")]
    name = programs.run("buildah", *place, "from", f"oci-archive:{out}", env=environment).strip()
    root = programs.run("buildah", *place, "mount", name, env=environment).strip()
    try:
        assert_same_below_the_root(wanted, tree.snapshot(root))
    finally:
        programs.run("buildah", *place, "rm", name, env=environment)
        subprocess.run(["umount", "-R", tmp_path / "b/root"], check=False, capture_output=True)


def change(root: Path) -> None:
    """One of everything: new, changed, removed, replaced; owners, modes, times, xattrs, links, sparse, devices."""
    (root / "new").mkdir(mode=0o751)
    (root / "new/file").write_text("new\n")
    os.link(root / "new/file", root / "new/same")
    os.chown(root / "new/file", 123456, 654321)
    (root / "new/link").symlink_to("/nowhere/at all")
    os.utime(root / "new/link", ns=(1, 1234567890_123456789), follow_symlinks=False)
    os.mkfifo(root / "new/fifo", 0o640)
    os.mknod(root / "new/dev", 0o60600, os.makedev(7, 1))
    os.setxattr(root / "new/file", "user.note", b"\0\xffbytes")
    os.setxattr(root / "new", "user.on.directory", b"1")
    with (root / "new/sparse").open("wb") as file:
        file.truncate(5_000_000)
        file.seek(2_000_000)
        file.write(b"in the middle")
    shutil.copy(root / "bin/capped", root / "new/capped")
    os.setxattr(root / "new/capped", "security.capability", os.getxattr(root / "bin/capped", "security.capability"))
    (root / "new" / ("long" * 60)).write_text("x")
    (root / "new/ünïcödé").write_text("x")
    (root / "etc/empty").unlink()
    shutil.rmtree(root / "old")
    (root / "old").mkdir()
    (root / "old/other").write_text("replaced")
    (root / "d/e/f").chmod(0o6711)
    shutil.rmtree(root / "x")
    (root / "x").write_text("a file where a directory was")
    os.utime(root / "new/file", ns=(1, 1_000_000_000_987654321))
    os.utime(root / "new", ns=(1, 981173106_000000001))


def assert_same_below_the_root(wanted: tree.Snapshot, found: tree.Snapshot) -> None:
    """Everything to the nanosecond, but not the root itself, which Docker and buildah make as they like."""
    without_root = ({path: facts for path, facts in snapshot.items() if path} for snapshot in (wanted, found))
    tree.assert_same(*without_root, names="wanted found")


def test_mounting_dockers_own_layers(docker: Docker, built: str, mnt: Path, store: Path, tmp_path: Path) -> None:
    unionfs("mount", "--docker-root", docker.data, built, mnt, store=store)
    ours = tree.snapshot(str(mnt))
    umount(mnt)
    tree.assert_same(ours, overlay_tree(docker.layers(built)[::-1], tmp_path / "theirs"))
    assert "Docker's images do not change" in unionfs(
        "mount", "--rw", "--docker-root", docker.data, built, mnt, store=store, fails=1)  # fmt: skip


def test_mounting_dockers_containers(docker: Docker, built: str, mnt: Path, store: Path) -> None:
    where = ("--docker-root", str(docker.data))
    docker("run", "-d", "--name", "cont", "--network=none", "-u", "0", built,
           "echo made > /made; rm /d/s; while true; do sleep 1; done")  # fmt: skip
    try:
        assert eventually(lambda: "D /d/s" in docker("diff", "cont"))
        assert "stop it first" in unionfs("mount", "--rw", *where, "cont", mnt, store=store, fails=1)
        unionfs("mount", *where, "cont", mnt, store=store)
        assert (mnt / "made").read_text() == "made\n"
        assert not (mnt / "d/s").is_symlink()
        umount(mnt)
        docker("kill", "cont")
        unionfs("mount", "--rw", *where, "cont", mnt, store=store)
        (mnt / "made").write_text("changed\n")
        umount(mnt)
        docker("cp", "cont:/made", mnt / "out")
        assert (mnt / "out").read_text() == "changed\n"
    finally:
        docker("rm", "-f", "cont")


def mount(*words: str | Path, code: int = 0) -> str:
    """`unionfs mount …`: what it says on standard error."""
    command = [sys.executable, "-bb", "-W", "error", "-m", "unionfs", "mount", *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == code, f"{words}: {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stderr


def test_mount_shows_dockers_own_chain_by_name_or_id(docker: Docker, built: str, mnt: Path, tmp_path: Path) -> None:
    wanted = overlay_tree(docker.layers(built)[::-1], tmp_path / "theirs")
    for name in (built, docker.inspect(built)["Id"], docker.inspect(built)["Id"][7:19]):
        assert mount("--docker", name, "--docker-root", docker.data, mnt) == ""
        tree.assert_same(tree.snapshot(str(mnt)), wanted)
        with pytest.raises(OSError, match="Read-only"):
            (mnt / "new").write_text("")
        umount(mnt)


def test_mount_writes_into_a_container_only_when_it_is_stopped(docker: Docker, built: str, mnt: Path,
                                                                    tmp_path: Path) -> None:  # fmt: skip
    where = f"docker_root={docker.data}"
    identity = docker("run", "-d", "--name", "lived", "--network=none", "-u", "0", built,
                      "echo made > /made; rm /d/s; while true; do sleep 1; done").strip()  # fmt: skip
    try:
        assert eventually(lambda: "D /d/s" in docker("diff", "lived"))
        assert "lived is running: mounted read-only" in mount("-o", f"docker=lived,{where}", mnt)
        assert (mnt / "made").read_text() == "made\n"
        assert not (mnt / "d/s").is_symlink()
        with pytest.raises(OSError, match="Read-only"):
            (mnt / "made").write_text("")
        umount(mnt)
        docker("kill", "lived")
        mount("-o", f"ro,docker=lived,{where}", mnt)
        with pytest.raises(OSError, match="Read-only"):
            (mnt / "made").write_text("")
        umount(mnt)
        assert mount("-o", f"docker={identity[:12]},{where}", mnt) == ""
        (mnt / "made").write_text("changed\n")
        (mnt / "etc/empty").unlink()
        umount(mnt)
        assert "D /etc/empty" in docker("diff", "lived")
        docker("cp", "lived:/made", tmp_path / "out")
        assert (tmp_path / "out").read_text() == "changed\n"
        docker("start", "lived")
        docker("exec", "lived", "ls", "/etc")
    finally:
        docker("rm", "-f", "lived")


def test_mount_of_what_docker_does_not_have(docker: Docker, built: str, mnt: Path, tmp_path: Path) -> None:
    where = f"docker_root={docker.data}"
    assert "neither an image nor a container nothing" in mount("-o", f"docker=nothing,{where}", mnt, code=2)
    assert "no store of Docker" in mount("--docker", "x", "--docker-root", tmp_path, mnt, code=1)
    assert "leave lowerdir" in mount("-o", f"docker={built},{where},lowerdir={tmp_path}", mnt, code=2)


def test_docker_root_that_is_none(store: Path, mnt: Path, tmp_path: Path) -> None:
    assert "no store of Docker" in unionfs("mount", "--docker-root", tmp_path, "x", mnt, store=store, fails=1)
    assert "does not exist" in unionfs("mount", "--docker-root", tmp_path / "no", "x", mnt, store=store, fails=1)


def test_names_of_writable_layers(store: Path, loaded: Path, built: str) -> None:
    with Store(str(store)) as opened, pytest.raises(Exception, match="cannot name"):
        writable.make(opened, find(opened, built), "../x")
