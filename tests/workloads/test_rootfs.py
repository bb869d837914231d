"""A Debian root file system, split over layers: chroot, dpkg -i, dpkg --verify, and untouched layers.

debootstrap fetches from the machine's Debian mirror once for a test run (half a minute); UNIONFS_TEST_ROOTFS names
one that was made before. Without debootstrap or a mirror the tests are skipped and say so.
"""

from __future__ import annotations

import contextlib
import functools
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.lib import kernel, tree
from tests.lib.engines import Mounted

pytestmark = [
    pytest.mark.engines("overlay", "unionfs", "fusepy"),
    pytest.mark.timeout(600),
    pytest.mark.xdist_group("rootfs"),  # one debootstrap for all
]
ENVIRONMENT = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C", "DEBIAN_FRONTEND": "noninteractive"}
# What goes into the layers above the lowest one, top first.
SPLIT = [["etc", "var/lib/dpkg", "root"], ["usr/share", "var", "usr/lib/x86_64-linux-gnu/perl-base"]]


@pytest.fixture(scope="session")
def rootfs() -> Iterator[str]:
    """A minbase root file system, which nobody changes."""
    if given := os.environ.get("UNIONFS_TEST_ROOTFS"):
        yield given
        return
    if not shutil.which("debootstrap"):
        pytest.skip("debootstrap is not installed")
    base = tempfile.mkdtemp(prefix="unionfs-rootfs-", dir="/var/tmp")
    try:
        command = ["debootstrap", "--variant=minbase", "bookworm", base + "/root"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            pytest.skip(f"debootstrap failed, probably for want of a mirror: {done.stdout.strip().splitlines()[-1]}")
        yield base + "/root"
    finally:
        shutil.rmtree(base)


def split(rootfs: str, fs: Mounted) -> None:
    """Lays a copy of the root file system over the stack's lowers."""
    bottom = fs.lowers[-1]
    subprocess.run(["cp", "-a", rootfs + "/.", bottom], check=True)
    for layer, parts in zip(fs.lowers, SPLIT, strict=False):
        for part in parts:
            source, target = Path(bottom, part), Path(layer, part)
            if not source.exists():
                continue
            target.parent.mkdir(parents=True, exist_ok=True)
            os.rename(source, target)
            for parent in Path(part).parents:
                shutil.copystat(Path(bottom, parent), Path(layer, parent))
    fs.remember_lowers()


@pytest.fixture
def machine(engine: str, rootfs: str) -> Iterator[Mounted]:
    base = tempfile.mkdtemp(prefix="unionfs-machine-", dir="/var/tmp")
    fs = Mounted(engine, base + "/s", [{}, {}, {}], mounted=False)
    faults: list[str] = []
    try:
        split(rootfs, fs)
        fs.mount()
        yield fs
        fs.close()
        faults = fs.faults()
    finally:
        fs.close()
        shutil.rmtree(base)
    assert not faults, "\n".join(faults[:50])


def inside(fs: Mounted, *command: str) -> str:
    whole = ["chroot", fs.mnt, *command]
    done = subprocess.run(
        whole, capture_output=True, text=True, env=ENVIRONMENT, stdin=subprocess.DEVNULL, check=False
    )
    assert done.returncode == 0, f"{command}: {done.returncode}\n{done.stdout[-2000:]}{done.stderr[-2000:]}"
    return done.stdout


@contextlib.contextmanager
def proc(fs: Mounted) -> Iterator[None]:
    kernel.mount("proc", fs.path("proc"), "proc", "")
    try:
        yield
    finally:
        kernel.umount(fs.path("proc"))


def package(base: str, name: str, version: str, files: dict[str, str], scripts: dict[str, str]) -> str:
    """Makes a small .deb and returns its path."""
    top = Path(base, f"{name}-{version}")
    for path, content in files.items():
        target = top / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(content)
        target.chmod(0o755 if "bin/" in path else 0o644)
    control = top / "DEBIAN"
    control.mkdir(parents=True)
    lines = {"Package": name, "Version": version, "Architecture": "all", "Maintainer": "nobody", "Description": "test"}
    (control / "control").write_text("".join(f"{key}: {value}\n" for key, value in lines.items()))
    (control / "conffiles").write_text("".join(f"/{path}\n" for path in files if path.startswith("etc/")))
    sums = [f"{_md5(content)}  {path}\n" for path, content in files.items() if not path.startswith("etc/")]
    (control / "md5sums").write_text("".join(sums))
    for script, content in scripts.items():
        (control / script).write_text(f"#!/bin/sh\nset -e\n{content}\n")
        (control / script).chmod(0o755)
    result = f"{base}/{name}_{version}.deb"
    command = ["dpkg-deb", "--root-owner-group", "-Znone", "-b", str(top), result]
    subprocess.run(command, check=True, capture_output=True)
    return result


@functools.cache
def _md5(content: str) -> str:
    import hashlib

    return hashlib.md5(content.encode(), usedforsecurity=False).hexdigest()


def install(fs: Mounted, *packages: str) -> None:
    os.makedirs(fs.path("tmp/debs"), exist_ok=True)
    for path in packages:
        shutil.copy(path, fs.path("tmp/debs"))
    inside(fs, "dpkg", "-i", *[f"/tmp/debs/{os.path.basename(path)}" for path in packages])
    shutil.rmtree(fs.path("tmp/debs"))


def test_a_debian_system_lives_on_the_mount(machine: Mounted, rootfs: str, base: Path) -> None:
    fs = machine
    shown = tree.snapshot(fs.mnt, content=False)
    tree.assert_same(tree.snapshot(rootfs, content=False), shown, ignore={"mtime"}, names="original mounted")
    before = inside(fs, "dpkg", "--verify")
    assert "Debian" in inside(fs, "cat", "/etc/os-release")

    place = str(base)
    diversion = "dpkg-divert --package one --rename --divert /usr/bin/tac.real --add /usr/bin/tac"
    one = package(place, "one", "1", {"usr/bin/tac": "#!/bin/sh\n", "etc/one.conf": "v=1\n"}, {"preinst": diversion})
    second = {"usr/share/two/new": "new\n", "usr/bin/two": "#!/bin/sh\necho 2\n"}
    newer = package(place, "two", "2", second, {"postinst": "ldconfig"})
    older = package(place, "two", "1", {"usr/share/two/old": "old\n", "usr/bin/two": "#!/bin/sh\necho 1\n"}, {})
    with proc(fs):
        install(fs, one, older)
        install(fs, newer)
        archives = Path(fs.path("var/cache/apt/archives"))
        real = sorted(f"/var/cache/apt/archives/{p.name}" for p in archives.glob("*.deb"))
        wanted = {"sed", "tzdata", "libc-bin", "grep"}
        chosen = [path for path in real if os.path.basename(path).split("_")[0] in wanted]
        if chosen:
            inside(fs, "dpkg", "-i", *chosen)
        inside(fs, "useradd", "-m", "somebody")
        inside(fs, "chmod", "-R", "g+w", "/usr/share/two")
    assert inside(fs, "dpkg", "--verify") == before
    assert fs.exists("usr/bin/tac.real")
    assert fs.ls("usr/share/two") == ["new"]

    fs.remount()
    assert inside(fs, "dpkg", "--verify") == before
    assert inside(fs, "two") == "2\n"
    with proc(fs):
        inside(fs, "dpkg", "--purge", "one", "two")
    assert not fs.exists("usr/share/two")
    assert tree.listing_faults(fs.path("var")) == []
    tree.assert_same(fs.tree(), by_kernel(fs), names=f"{fs.engine} kernel-on-its-upper")


def by_kernel(fs: Mounted) -> tree.Snapshot:
    """The same upper, mounted by the kernel."""
    fs.unmount()
    fs.mount(engine="overlay")
    try:
        return fs.tree()
    finally:
        kernel.umount(fs.mnt)
        fs.mount()
