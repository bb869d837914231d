"""Images in the hands of an ordinary user: what he loads, mounts, runs, builds and commits is what root would have."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.site import USER, interpreter_for, user_mounts
from tests.image import programs
from tests.image.programs import unionfs
from tests.image.test_work import CHANGES, eventually, mounted
from tests.image.test_work import run as run_as_root
from tests.lib import tree
from tests.lib.asuser import as_user
from tests.lib.engines import ROOT
from unionfs.image.find import find
from unionfs.image.store import Store

DOCKERFILE = """\
FROM test:img
USER 0
RUN echo hi > /hi && chown 5:6 /hi && chmod 2755 /hi && mkfifo /hi.pipe && chmod 0 /etc/empty
COPY --chown=7:8 f /x/f
ADD a.tar /added/
WORKDIR /made/here
RUN rm -r /old && cat /hi
USER 5:6
RUN echo mine > /tmp/mine
"""


class Person:
    """An ordinary user with a store of his own, and a machine whose /etc he may read."""

    def __init__(self, base: Path) -> None:
        self.base, self.store, self.etc = base, base / "home/store", base / "etc"
        self.python = interpreter_for(USER)
        self.mnt = base / "home/mnt"
        shutil.copytree(ROOT / "unionfs", base / "code/unionfs", ignore=shutil.ignore_patterns("__pycache__"))
        for path in (base / "home", self.mnt):
            path.mkdir()
            os.chown(path, USER, USER)
        self.etc.mkdir()
        (self.etc / "passwd").write_text(f"root:x:0:0::/root:/bin/sh\nnobody:x:{USER}:{USER}::/:/bin/false\n")
        for name in ("nsswitch.conf", "ld.so.cache"):
            if os.path.isfile(f"/etc/{name}"):
                shutil.copy(f"/etc/{name}", self.etc / name)
                (self.etc / name).chmod(0o644)

    def give_ranges(self) -> None:
        """What useradd does: ids for this user's namespaces."""
        programs.need("newuidmap", "newgidmap")
        for name in ("subuid", "subgid"):
            (self.etc / name).write_text("nobody:200000:65536\n")

    def __call__(self, *words: str | Path, code: int = 0) -> str:
        """`unionfs …` of this user: its output, or what it says on failing with that exit code."""
        enter = ["unshare", "--mount", "--propagation", "private", "sh", "-ec",
                 f'mount --bind {self.etc} /etc; exec setpriv --reuid {USER} --regid {USER} '
                 '--clear-groups "$@"', "sh"]  # fmt: skip
        if words[0] == "umount" or words[1] == "mount":     # a mount is to outlive the namespace
            enter = ["setpriv", "--reuid", str(USER), "--regid", str(USER), "--clear-groups"]
        environment = {"PATH": f"{os.defpath}:/usr/sbin:/sbin", "PYTHONPATH": str(self.base / "code"),
                       "PYTHONDONTWRITEBYTECODE": "1", "HOME": str(self.base / "home"),
                       "TMPDIR": str(self.base / "home"),
                       "UNIONFS_STORE": str(self.store)}  # fmt: skip
        done = subprocess.run(
            [*enter, self.python, "-bb", "-W", "error", "-m", "unionfs", *words], capture_output=True, text=True,
            timeout=120, cwd=self.base / "home", env=environment,
        )  # fmt: skip
        assert done.returncode == code, f"{words}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done.stderr if code else done.stdout

    def show(self) -> tree.Snapshot:
        """What he sees on the mount; of files, what needs no permission to read."""
        return as_user(lambda: tree.snapshot(str(self.mnt), content=False), USER)

    def leftovers(self) -> list[str]:
        places = [self.store / "tmp", self.store / "writable"]
        return [name for place in places if place.exists() for name in os.listdir(place)]


@pytest.fixture
def person(base: Path, saved: Path) -> Iterator[Person]:
    """With the images that Docker built in his store."""
    him = Person(base)
    archive = base / "images.tar"
    shutil.copy(saved, archive)
    archive.chmod(0o644)
    him("image", "load", archive)
    yield him
    if mounted(him.mnt):
        him("umount", him.mnt)


@pytest.fixture
def loaded(saved: Path, store: Path) -> Path:
    unionfs("load", saved, store=store)
    return store


def back(person: Person, name: str, store: Path) -> None:
    """From his store into root's."""
    out = person.base / "home/out.tar"
    person("image", "save", name, "-o", out)
    unionfs("load", out, store=store)
    out.unlink()


def differences(one: str, two: str, store: Path) -> list[str]:
    """Of two images, but for times."""
    lines = unionfs("diff", one, two, store=store).splitlines()
    return [line for line in lines if line.startswith(("A", "D")) or not line.endswith("(time)")]


@user_mounts
def test_a_mount_shows_what_roots_shows(person: Person, built: str, loaded: Path, tmp_path: Path) -> None:
    person("image", "mount", built, person.mnt)
    (tmp_path / "mnt").mkdir()
    unionfs("mount", built, tmp_path / "mnt", store=loaded)
    try:
        tree.assert_same(person.show(), tree.snapshot(str(tmp_path / "mnt"), content=False), names="his root's")
        device = as_user(lambda: os.stat(person.mnt / "d/null"), USER)
        assert device.st_rdev == os.makedev(1, 3)
        capable = as_user(lambda: os.getxattr(person.mnt / "bin/capped", "security.capability"), USER)
        assert capable == os.getxattr(tmp_path / "mnt/bin/capped", "security.capability")
    finally:
        subprocess.run(["umount", tmp_path / "mnt"], check=True)
    layer = find(Store(str(person.store)), built).layers()[0].diff
    assert {os.lstat(os.path.join(at, name)).st_uid for at, _, names in os.walk(layer) for name in names} == {USER}


@user_mounts
def test_a_writable_mount_lets_him_write_what_is_roots(person: Person, built: str, loaded: Path) -> None:
    person("image", "mount", built, person.mnt, "--keep", "mine")

    def change() -> None:
        (person.mnt / "etc/new").write_text("new")
        (person.mnt / "etc/empty").chmod(0o4710)
        (person.mnt / "old/n").unlink()

    as_user(change, USER)
    assert as_user(lambda: os.stat(person.mnt / "etc/new"), USER).st_uid == USER
    assert as_user(lambda: os.stat(person.mnt / "x/y/1.txt"), USER).st_uid == USER, "root's, shown as his"
    assert as_user(lambda: os.stat(person.mnt / "d"), USER).st_uid == 1000
    person("umount", person.mnt)
    assert person("image", "diff", "mine").splitlines() == [
        "C /etc", "C /etc/empty", "A /etc/new", "C /old", "D /old/n"]
    person("image", "commit", "mine", "mine:1")
    back(person, "mine:1", loaded)
    layer = Path(find(Store(str(loaded)), "mine:1").layers()[-1].diff)
    assert [(path.lstat().st_uid, oct(path.lstat().st_mode)) for path in (layer / "etc/new", layer / "etc/empty")] == [
        (0, "0o100644"), (0, "0o104710")]


@user_mounts
def test_run_and_commit_make_what_roots_make(person: Person, built: str, loaded: Path) -> None:
    person.give_ranges()
    changes = CHANGES + "chmod 4755 /d/e/f"     # which writing took away: only the machine's root keeps it
    person("run", "--keep", "his", "-u", "0", built, changes)
    run_as_root(loaded, "--keep", "roots", "-u", "0", built, changes)
    person("image", "commit", "his", "his:1")
    unionfs("commit", "roots", "roots:1", store=loaded)
    back(person, "his:1", loaded)
    assert differences("roots:1", "his:1", loaded) == []
    assert {line.split()[-1] for line in person("image", "diff", "his").splitlines()} == {
        line.split()[-1] for line in unionfs("diff", "roots", store=loaded).splitlines()}
    person("image", "writable", "--rm", "his")
    assert person.leftovers() == []


@user_mounts
def test_run_with_ranges_becomes_any_user(person: Person, built: str) -> None:
    person.give_ranges()
    assert person("run", built, "stat -Lc %u:%g /proc/self; pwd").split() == ["5:6", "/w"]
    assert person("run", "-u", "0", built, "chown 9:10 /etc/empty; stat -c %u:%g /etc/empty").split() == ["9:10"]
    assert person.leftovers() == []


@user_mounts
def test_run_without_ranges_is_root_alone(person: Person, built: str) -> None:
    said = person("run", "-u", "0", built, "stat -Lc %u /proc/self; touch /new; stat -c %u:%g /new; rm /old/n; echo /*")
    assert said.split()[:2] == ["0", "0:0"]
    assert "/new" in said.split()
    assert "ranges for you in /etc/subuid" in person("run", built, code=125)
    assert "no such command" in person("run", "-u", "0", "--entrypoint", "/bin/nothing", built, code=127)
    assert person.leftovers() == []


@user_mounts
def test_the_tour_is_for_everybody(person: Person) -> None:
    said = person("tour", "layers")
    assert "✘" not in said
    assert said.count("✔") == 19
    assert not [name for name in os.listdir(person.base / "home") if name.startswith("unionfs-tour")]


@user_mounts
def test_build_makes_what_roots_makes(person: Person, built: str, loaded: Path) -> None:
    person.give_ranges()
    context = person.base / "home/context"
    (context / "tree/in").mkdir(parents=True)
    (context / "tree/in/file").write_text("in the archive")
    os.chown(context / "tree/in/file", 77, 78)
    (context / "tree/in/file").chmod(0o4755)
    programs.run("tar", "-C", context / "tree", "-cf", context / "a.tar", ".")
    shutil.rmtree(context / "tree")
    (context / "f").write_text("f")
    (context / "Dockerfile").write_text(DOCKERFILE)
    for path in (context, *context.iterdir()):
        os.chown(path, USER, USER)
    identity = person("image", "build", "-q", "-t", "his:1", context)
    assert person("image", "build", "-q", context) == identity, "from the cache"
    unionfs("build", "-q", "-t", "roots:1", context, store=loaded)
    back(person, "his:1", loaded)
    assert differences("roots:1", "his:1", loaded) == []
    assert len(json.loads(unionfs("inspect", "his:1", store=loaded))[0]["RootFS"]["Layers"]) == 8 + 6
    assert person.leftovers() == []
    person("image", "rm", "his:1")
    assert eventually(lambda: person.leftovers() == [])
