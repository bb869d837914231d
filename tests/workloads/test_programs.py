"""Programs that people run, on a merged tree, and the same result as on ext4."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import Mount
from tests.lib import tree
from tests.lib.engines import Mounted
from tests.lib.layers import Dir, File, Layer, Link, Special, Symlink, Whiteout

QUIET = {**os.environ, "GIT_CONFIG_NOSYSTEM": "1", "HOME": "/nonexistent", "LC_ALL": "C"}
for _key, _value in {"NAME": "A. Tester", "EMAIL": "tester@example.org"}.items():
    QUIET |= {f"GIT_AUTHOR_{_key}": _value, f"GIT_COMMITTER_{_key}": _value}

MIXED: list[Layer] = [
    {
        "d/a": File("one", mode=0o600, uid=5, mtime=10**18 + 1, xattrs={"user.x": b"v"}),
        "d/gone": Whiteout(),
        "op": Dir(opaque=True, mode=0o711),
        "op/new": "n",
        "sub/link": Symlink("../d/a"),
        "hard1": "linked",
        "sub/hard2": Link("hard1"),
    },
    {
        "d/b": b"two" * 1000,
        "d/gone": "x",
        "op/hidden": "",
        "pipe": Special(0o010000),
        "deep/er/and/er": File(size=100_000),
        "zero": Special(0o020000, os.makedev(1, 5)),
    },
]


def need(*programs: str) -> None:
    for program in programs:
        if not shutil.which(program):
            pytest.skip(f"{program} is not installed")


def run(*command: str, cwd: str | None = None, env: dict[str, str] | None = None) -> str:
    done = subprocess.run(
        command, cwd=cwd, env=env or QUIET, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False
    )
    assert done.returncode == 0, f"{' '.join(command)}: {done.returncode}\n{done.stdout[-2000:]}{done.stderr[-2000:]}"
    return done.stdout


def same(fs: Mounted, other: str, ignore: set[str]) -> None:
    tree.assert_same(fs.tree(), tree.snapshot(other), ignore=ignore, names="mount copy")


def test_git(mount: Mount, base: Path) -> None:
    need("git")
    origin = str(base / "origin")
    os.mkdir(origin)
    run("git", "init", "-q", "-b", "main", cwd=origin)
    for i in range(60):
        Path(origin, f"dir{i % 7}").mkdir(exist_ok=True)
        Path(origin, f"dir{i % 7}", f"file{i}").write_text(f"{i}\n" * i)
    run("git", "add", ".", cwd=origin)
    run("git", "commit", "-q", "-m", "first", cwd=origin)
    fs = mount({"x": ""}, upper=None)
    clone = fs.path("clone")
    run("git", "clone", "-q", origin, clone)
    assert run("git", "status", "--porcelain", cwd=clone) == ""
    Path(clone, "dir1", "file1").write_text("changed")
    os.unlink(clone + "/dir2/file2")
    run("git", "commit", "-q", "-a", "-m", "second", cwd=clone)
    run("git", "checkout", "-q", "-b", "other", "HEAD~1", cwd=clone)
    run("git", "mv", "dir3", "moved", cwd=clone)
    run("git", "commit", "-q", "-m", "moved", cwd=clone)
    run("git", "merge", "-q", "--no-edit", "main", cwd=clone)
    run("git", "gc", "-q", "--prune=now", cwd=clone)
    run("git", "fsck", "--full", "--strict", cwd=clone)
    fs.remount()
    assert run("git", "status", "--porcelain", cwd=clone) == ""


def test_git_in_a_lower_layer(mount: Mount, base: Path) -> None:
    """status must not think that every file changed: sizes, times and inode numbers are those of the index."""
    need("git")
    fs = mount({"repo": Dir()}, {"other": ""}, mounted=False)
    repo = f"{fs.mnt if fs.engine == 'plain' else fs.lowers[0]}/repo"
    run("git", "init", "-q", "-b", "main", cwd=repo)
    for i in range(30):
        Path(repo, f"file{i}").write_text(str(i))
    run("git", "add", ".", cwd=repo)
    run("git", "commit", "-q", "-m", "first", cwd=repo)
    if fs.engine != "plain":
        fs.remember_lowers()
        fs.mount()
    repo = fs.path("repo")
    assert run("git", "status", "--porcelain", cwd=repo) == ""
    Path(repo, "file3").write_text("new")
    assert run("git", "status", "--porcelain", cwd=repo) == " M file3\n"
    run("git", "stash", "-q", cwd=repo)
    run("git", "gc", "-q", cwd=repo)
    run("git", "stash", "pop", "-q", cwd=repo)
    assert run("git", "status", "--porcelain", cwd=repo) == " M file3\n"
    run("git", "fsck", "--full", cwd=repo)


def test_sqlite_wal(mount: Mount) -> None:
    """A database that lies in a lower layer; readers hold it open while it is copied up."""
    fs = mount({"db": Dir()}, mounted=False)
    place = f"{fs.mnt if fs.engine == 'plain' else fs.lowers[0]}/db/data"
    with sqlite3.connect(place) as connection:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("CREATE TABLE t (n INTEGER PRIMARY KEY, v TEXT)")
        connection.executemany("INSERT INTO t VALUES (?, ?)", [(i, "x" * 100) for i in range(2000)])
    connection.close()
    if fs.engine != "plain":
        fs.remember_lowers()
        fs.mount()
    reader = sqlite3.connect(fs.path("db/data"))
    writer = sqlite3.connect(fs.path("db/data"))
    assert reader.execute("SELECT count(*) FROM t").fetchone() == (2000,)
    for i in range(2000, 2050):
        with writer:
            writer.execute("INSERT INTO t VALUES (?, 'new')", (i,))
    assert reader.execute("SELECT count(*) FROM t").fetchone() == (2050,)
    with writer:
        writer.execute("DELETE FROM t WHERE n < 1000")
    writer.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    writer.execute("VACUUM")
    assert reader.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    reader.close()
    writer.close()
    fs.remount()
    again = sqlite3.connect(fs.path("db/data"))
    assert again.execute("SELECT count(*), min(n) FROM t").fetchone() == (1050, 1000)
    assert again.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    again.close()


def test_tar_and_back(mount: Mount, base: Path) -> None:
    need("tar")
    fs = mount(*MIXED)
    run("tar", "--xattrs", "--xattrs-include=*", "-cf", str(base / "t.tar"), "-C", fs.mnt, ".")
    run("tar", "-df", str(base / "t.tar"), "-C", fs.mnt)
    out = str(base / "out")
    os.mkdir(out)
    run("tar", "--xattrs", "--xattrs-include=*", "-xpf", str(base / "t.tar"), "-C", out)
    same(fs, out, {"mtime"})
    os.mkdir(fs.path("unpacked"))
    run("tar", "--xattrs", "--xattrs-include=*", "-xpf", str(base / "t.tar"), "-C", fs.path("unpacked"))
    tree.assert_same(tree.snapshot(out), tree.snapshot(fs.path("unpacked")), ignore={"mtime"})


def test_rsync(mount: Mount, base: Path) -> None:
    need("rsync")
    fs = mount(*MIXED)
    out = str(base / "out")
    run("rsync", "-aHAX", fs.mnt + "/", out)
    # Some builds of rsync 3.5 set the times of plain files only.
    same(fs, out, {"mtime"})
    assert tree.snapshot(out)[b"d/a"]["mtime"] == 10**18 + 1
    run("rsync", "-aHAX", out + "/", fs.path("copy"))
    tree.assert_same(tree.snapshot(out), tree.snapshot(fs.path("copy")), ignore={"mtime"})
    Path(out, "d", "a").write_text("changed on the other side")
    os.unlink(out + "/d/b")
    os.mkdir(out + "/fresh")
    run("rsync", "-aHAX", "--delete", "--exclude=/copy", out + "/", fs.mnt)
    shutil.rmtree(fs.path("copy"))
    same(fs, out, {"mtime"})
    fs.remount()
    same(fs, out, {"mtime"})


def test_cp_find_rm(mount: Mount, base: Path) -> None:
    fs = mount(*MIXED)
    out = str(base / "out")
    run("cp", "-a", fs.mnt, out)
    same(fs, out, set())
    run("cp", "-a", fs.path("d"), fs.path("d2"))
    tree.assert_same(tree.snapshot(fs.path("d")), tree.snapshot(fs.path("d2")))
    by_find = {line[2:] for line in run("find", ".", cwd=fs.mnt).splitlines() if line != "."}
    assert by_find == {os.fsdecode(path) for path in fs.tree() if path}
    hard = run("find", ".", "-samefile", "hard1", cwd=fs.mnt).split()
    assert sorted(hard) == ["./hard1", "./sub/hard2"]
    run("rm", "-rf", *[fs.path(name) for name in fs.ls()])
    assert fs.ls() == []
    fs.remount()
    assert fs.ls() == []


def test_du_counts_hard_links_once(mount: Mount) -> None:
    fs = mount({"a": b"x" * 1_000_000, "b": Link("a"), "c": Link("a")})
    assert int(run("du", "-s", "--block-size=1", fs.mnt).split()[0]) < 1_100_000


def test_compiling(mount: Mount) -> None:
    need("gcc", "make")
    sources: Layer = {
        "src/main.c": '#include "lib.h"\nint main(void) { return answer() - 42; }\n',
        "src/lib.c": '#include "lib.h"\nint answer(void) { return 41; }\n',
        "src/lib.h": "int answer(void);\n",
        "src/Makefile": "prog: main.o lib.o\n\tgcc -o prog main.o lib.o\n%.o: %.c lib.h\n\tgcc -g -c $<\n",
    }
    fs = mount({"src/lib.c": '#include "lib.h"\nint answer(void) { return 42; }\n'}, sources)
    run("make", "-j2", cwd=fs.path("src"))
    run(fs.path("src/prog"))
    assert "up to date" in run("make", cwd=fs.path("src"))
    Path(fs.path("src/lib.c")).write_text('#include "lib.h"\nint answer(void) { return 43; }\n')
    os.utime(fs.path("src/lib.c"), (2**31, 2**31))
    run("make", cwd=fs.path("src"))
    assert subprocess.run([fs.path("src/prog")], check=False).returncode == 1


def test_virtual_environment(mount: Mount) -> None:
    """venv and an offline pip install: many small files, renames, scripts that run from the mount."""
    fs = mount({"project/pyproject.toml": "", "project/hello.py": "def main():\n    print('hello')\n"})
    Path(fs.path("project/pyproject.toml")).write_text(
        '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n'
    )
    Path(fs.path("project/backend.py")).write_text(BACKEND)
    run(sys.executable, "-m", "venv", fs.path("venv"))
    pip = ["-m", "pip", "--disable-pip-version-check", "--no-cache-dir"]
    run(
        fs.path("venv/bin/python"), *pip, "install", "-q", "--no-index", "--no-build-isolation", fs.path("project")
    )
    assert run(fs.path("venv/bin/hello")) == "hello\n"
    fs.remount()
    assert run(fs.path("venv/bin/hello")) == "hello\n"
    run(fs.path("venv/bin/python"), *pip, "uninstall", "-q", "-y", "hello")
    assert not fs.exists("venv/bin/hello")


BACKEND = """
import os, zipfile

def build_wheel(wheel_directory, config_settings=None, metadata_directory=None):
    name = "hello-1.0-py3-none-any.whl"
    info = "hello-1.0.dist-info"
    with zipfile.ZipFile(os.path.join(wheel_directory, name), "w") as wheel:
        wheel.write("hello.py")
        wheel.writestr(info + "/METADATA", "Metadata-Version: 2.1\\nName: hello\\nVersion: 1.0\\n")
        wheel.writestr(info + "/WHEEL", "Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n")
        wheel.writestr(info + "/entry_points.txt", "[console_scripts]\\nhello = hello:main\\n")
        wheel.writestr(info + "/RECORD", "hello.py,,\\n" + info + "/METADATA,,\\n" + info + "/WHEEL,,\\n")
    return name
"""
