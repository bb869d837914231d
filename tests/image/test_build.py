"""Building: what a Dockerfile means, compared with what Docker makes of the same one, and the cache."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from tests.image import programs
from tests.image.programs import Docker, unionfs
from tests.image.test_work import overlay_tree
from tests.lib import tree
from unionfs.image.build import words
from unionfs.image.build.dockerfile import BuildError, parse
from unionfs.image.build.ignore import Ignore
from unionfs.image.find import find
from unionfs.image.store import Image, Store

DOCKERFILE = """\
# escape=\\
ARG TAG=1
FROM base:${TAG} AS first
ARG GREETING=hello
ENV A=b "C"="d e" PATH=/more:$PATH
RUN echo "$GREETING $A" > /made && \\
    # a comment between the lines

    mkdir -p /m/n && chmod 2751 /m && chown 3:4 /m/n
WORKDIR /tmp/w
RUN ["/bin/sh", "-c", "pwd > /where; echo $C >> /where"]

FROM base:1
LABEL one="1 2" two=2
COPY *.txt dir/sub /ctx/
COPY . /all/
COPY --from=first /made /where /m /from/
COPY --chown=7:8 1.txt /owned/by/someone
COPY ["1.txt", "/name with blanks"]
ADD a.tar.gz /added/
ADD 1.txt /etc/
RUN rm -r /old; rm /etc/empty; mkdir /etc/empty; ln -s /ctx /link; mkdir /here; ln /made /here/ln 2>/dev/null || true
COPY 2.txt /link/through
WORKDIR relative
WORKDIR below
COPY 1.txt .
EXPOSE 80 90-91/udp
VOLUME ["/v1", "/v2"]
STOPSIGNAL SIGUSR1
USER 5:6
SHELL ["/bin/sh", "-ec"]
ENTRYPOINT ["/bin/sh", "-c"]
CMD ["cat /ctx/1.txt; pwd"]
"""


@pytest.fixture
def context(tmp_path: Path) -> Path:
    place = tmp_path / "context"
    (place / "dir/sub").mkdir(parents=True)
    (place / "skipped").mkdir()
    (place / "1.txt").write_text("one\n")
    (place / "2.txt").write_text("two\n")
    (place / "debug.log").write_text("no\n")
    (place / "keep.log").write_text("yes\n")
    (place / "skipped/x").write_text("no\n")
    (place / "dir/sub/f").write_text("f\n")
    (place / "dir/sub/f").chmod(0o751)
    (place / "dir/sub/l").symlink_to("f")
    (place / ".dockerignore").write_text("# not these\nskipped\n*.log\n!keep.log\n**/*.tmp\n")
    (place / "dir/x.tmp").write_text("")
    with tarfile.open(place / "a.tar.gz", "w:gz") as archive:
        member = tarfile.TarInfo("in/side")
        member.size, member.mode, member.uid, member.gid, member.mtime = 3, 0o640, 11, 12, 1_000_000_000
        archive.addfile(member, io.BytesIO(b"abc"))
    return place


@pytest.fixture
def loaded(saved: Path, store: Path) -> Path:
    unionfs("load", saved, store=store)
    return store


@pytest.fixture(scope="module")
def shared_store(saved: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """For tests that add nothing to it."""
    place = tmp_path_factory.mktemp("shared") / "store"
    unionfs("load", saved, store=place)
    return place


def build(store: Path, context: Path, dockerfile: str, *words: str, fails: int = 0) -> tuple[str, list[str]]:
    """(image id, the lines of the report), or ("", what it says) on failing."""
    (context / "Dockerfile").write_text(dockerfile)
    command = [sys.executable, "-bb", "-W", "error", "-m", "unionfs", "image", "build", "--store", str(store), *words]
    done = subprocess.run([*command, str(context)], capture_output=True, text=True, timeout=120)
    assert done.returncode == fails, f"{done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout.strip(), done.stderr.splitlines()


def image(store: Path, name: str) -> Image:
    return find(Store(str(store)), name)


def results(lines: list[str]) -> list[str]:
    """What became of each step."""
    return ["layer" if line.startswith("  layer") else line.strip() for line in lines if line.startswith("  ")]


def test_it_makes_what_docker_makes(docker: Docker, built: str, loaded: Path, context: Path, tmp_path: Path) -> None:
    programs.need("buildah")
    build(loaded, context, DOCKERFILE, "-t", "ours:1")
    docker.build("theirs:1", context, DOCKERFILE)
    out = tmp_path / "out.tar"
    unionfs("save", "ours:1", "-o", out, store=loaded)
    docker("load", "-i", out)
    try:
        ours = overlay_tree(docker.layers("ours:1")[::-1], tmp_path / "ours")
        theirs = overlay_tree(docker.layers("theirs:1")[::-1], tmp_path / "theirs")
        config = {name: docker.inspect(name)["Config"] for name in ("ours:1", "theirs:1")}
        assert docker("run", "--rm", "--network=none", "ours:1") == "one\n/relative/below\n"
    finally:
        docker("rmi", "ours:1", "theirs:1")
    for snapshot in (ours, theirs):
        del snapshot[b""]
        for volume in (b"v1", b"v2"):
            snapshot.pop(volume, None)        # made by Docker's `run` in the middle of the build
    tree.assert_same(ours, theirs, ignore={"mtime"}, names="ours docker's")
    for key in ("Env", "Cmd", "Entrypoint", "Labels", "ExposedPorts", "Volumes", "WorkingDir", "User", "StopSignal",
                "Shell"):  # fmt: skip
        assert config["ours:1"].get(key) == config["theirs:1"].get(key), key

    place = ["--root", str(tmp_path / "b/root"), "--runroot", str(tmp_path / "b/run")]
    environment = {**os.environ, "STORAGE_DRIVER": "vfs"}
    name = programs.run("buildah", *place, "from", f"oci-archive:{out}", env=environment).strip()
    said = json.loads(programs.run("buildah", *place, "inspect", name, env=environment))
    assert said["OCIv1"]["config"]["Entrypoint"] == ["/bin/sh", "-c"]
    programs.run("buildah", *place, "rm", name, env=environment)


HEALTH = """\
FROM base:1
MAINTAINER somebody
HEALTHCHECK --interval=1m30s --timeout=.5s --start-period=2h --retries=4 CMD echo fine
ONBUILD COPY 1.txt /from/trigger
ONBUILD RUN echo $GIVEN > /ran
ONBUILD ENV SET="by trigger"
"""


def test_health_and_triggers_are_dockers(docker: Docker, built: str, loaded: Path, context: Path, tmp_path: Path
                                         ) -> None:  # fmt: skip
    """Of what Docker built here, too: its triggers are done by our build."""
    child = "ARG GIVEN=nothing\nFROM parent:1\nARG GIVEN\nHEALTHCHECK {flags} CMD [\"echo\", \"fine\"]\n"
    # without flags Docker's old builder keeps the base's times, its new one does not
    child = child.format(flags="--interval=1s --timeout=100ms --start-period=1m1s --retries=1")
    last = "FROM base:1\nHEALTHCHECK NONE\n"
    try:
        for name, text in (("parent:1", HEALTH), ("child:1", child), ("last:1", last)):
            docker.build(name, context, text)
            build(loaded, context, text, "-t", name)
            ours, theirs = json.loads(unionfs("inspect", name, store=loaded))[0], docker.inspect(name)
            for key in ("Healthcheck", "OnBuild", "Env"):
                assert ours["Config"].get(key) == theirs["Config"].get(key), (name, key)
            assert name != "parent:1" or ours["Author"] == theirs["Author"] == "somebody"
            assert len(ours["RootFS"]["Layers"]) == len(theirs["RootFS"]["Layers"])
        docker("save", "-o", tmp_path / "parent.tar", "parent:1")
        unionfs("load", tmp_path / "parent.tar", "--name", "parent:docker", store=loaded)
    finally:
        docker("rmi", *(name for name in ("last:1", "child:1", "parent:1") if docker("images", "-q", name)))
    _, said = build(loaded, context, "FROM parent:docker\n", "-t", "again:1")
    assert [line for line in said if "ONBUILD" in line] == [
        "  ONBUILD COPY 1.txt /from/trigger", "  ONBUILD RUN echo $GIVEN > /ran", '  ONBUILD ENV SET="by trigger"']
    layers = image(loaded, "again:1").layers()
    assert Path(layers[-2].diff, "from/trigger").read_text() == "one\n"
    assert Path(layers[-1].diff, "ran").read_text() == "\n"


def test_history_and_layers(loaded: Path, context: Path) -> None:
    build(loaded, context, "FROM base:1\nLABEL a=b\nRUN true\nWORKDIR /bin\nWORKDIR /new\nCMD [\"x\"]\n", "-t", "x:1")
    steps = json.loads(unionfs("history", "--json", "x:1", store=loaded))
    assert [step["CreatedBy"] for step in steps][:5] == [
        'CMD ["x"]', "WORKDIR /new", "WORKDIR /bin", "RUN /bin/sh -c true", "LABEL a=b"]  # fmt: skip
    made, base = image(loaded, "x:1"), image(loaded, "base:1")
    assert len(made.diff_ids) == len(base.diff_ids) + 2      # RUN, and the directory that was not there
    empty = [bool(entry.get("empty_layer")) for entry in made.config["history"][-5:]]
    assert empty == [True, False, True, False, True]


def test_many_steps_in_one_process(loaded: Path, context: Path) -> None:
    """What one step leaves behind in the process must not reach the next one's mount or command."""
    text = ("FROM base:1\nADD a.tar.gz /a/\nCOPY --chown=7:8 1.txt /b/c\nRUN chmod 1777 /tmp\nADD 1.txt /d\nUSER 5\n"
            "RUN cat /proc/self/status > /tmp/s; touch /tmp/file\n")  # fmt: skip
    build(loaded, context, text, "-t", "m:1")
    top = Path(image(loaded, "m:1").layers()[-1].diff, "tmp")
    said = dict(line.split(":\t", 1) for line in (top / "s").read_text().splitlines())
    assert (said["Uid"].split()[0], said["CapEff"], said["Umask"]) == ("5", "0" * 16, "0022")
    assert (top / "file").stat().st_mode & 0o777 == 0o644


def test_the_cache(loaded: Path, context: Path) -> None:
    text = "FROM base:1\nRUN echo 1 > /one\nCOPY 1.txt /\nRUN cat /1.txt > /two\nCMD [\"a\"]\n"
    first, said = build(loaded, context, text, "-t", "c:1")
    assert results(said) == ["layer", "layer", "layer", "no layer"]
    again, said = build(loaded, context, text)
    assert results(said) == ["CACHED"] * 4
    assert again == first

    os.utime(context / "1.txt", (0, 0))     # times do not count, as in Docker
    assert results(build(loaded, context, text)[1]) == ["CACHED"] * 4
    (context / "1.txt").write_text("changed\n")
    changed, said = build(loaded, context, text)
    assert results(said) == ["CACHED", "layer", "layer", "no layer"]
    assert changed != first
    (context / "1.txt").write_text("one\n")
    assert build(loaded, context, text)[0] == first
    assert results(build(loaded, context, text, "--no-cache")[1]) == ["layer", "layer", "layer", "no layer"]

    unionfs("rm", "c:1", store=loaded)
    for row in json.loads(unionfs("ls", "--json", store=loaded)):
        if not row["names"]:
            unionfs("rm", row["id"], store=loaded)
    unionfs("gc", store=loaded)
    assert results(build(loaded, context, text)[1])[:3] == ["layer"] * 3
    assert os.listdir(loaded / "tmp") == []


def test_arguments(loaded: Path, context: Path) -> None:
    text = "ARG W=global\nFROM base:1\nARG W\nARG X=d\nRUN echo $W $X > /said\nENV X=env\nRUN echo $X >> /said\n"
    build(loaded, context, text, "-t", "a:1", "--build-arg", "X=given")
    layers = image(loaded, "a:1").layers()
    assert Path(layers[-1].diff, "said").read_text() == "global given\nenv\n"
    assert results(build(loaded, context, text, "--build-arg", "X=other")[1])[2] == "layer"


def test_target_and_unneeded_stages(loaded: Path, context: Path) -> None:
    text = "FROM base:1 AS one\nRUN true\nFROM base:1 AS unneeded\nRUN false\nFROM one\nLABEL a=b\n"
    said = build(loaded, context, text)[1]
    assert said[0].startswith("STEP 1/4")
    said = build(loaded, context, text, "--target", "unneeded", fails=1)[1]
    assert said[-1] == "unionfs: line 4: RUN: '/bin/sh -c false' ended with exit code 1"
    assert all(row["names"] for row in json.loads(unionfs("ls", "--json", store=loaded)) if row["layers"] != 2)


def test_from_scratch_is_reproducible(store: Path, context: Path) -> None:
    text = "FROM scratch\nCOPY dir /\nADD a.tar.gz /\nUSER 1\n"
    os.environ["SOURCE_DATE_EPOCH"] = "1000000000"
    try:
        ids = {build(place, context, text)[0] for place in (store, store.with_name("other"))}
    finally:
        del os.environ["SOURCE_DATE_EPOCH"]
    assert len(ids) == 1


@pytest.mark.parametrize(("text", "says"), [
    ("FROM base:1\n\nPLEASE x\n", "line 3: PLEASE: unknown instruction"),
    ("FROM base:1\nHEALTHCHECK --often CMD x\n", "line 2: HEALTHCHECK: --often is not supported"),
    ("FROM base:1\nHEALTHCHECK --interval=1 CMD x\n", "line 2: HEALTHCHECK: --interval=1 is no duration"),
    ("FROM base:1\nHEALTHCHECK --timeout=5us CMD x\n", "line 2: HEALTHCHECK: --timeout=5us is shorter than 1ms"),
    ("FROM base:1\nHEALTHCHECK --retries=x CMD x\n", "line 2: HEALTHCHECK: --retries=x is no number"),
    ("FROM base:1\nHEALTHCHECK curl x\n", "line 2: HEALTHCHECK: it has to be HEALTHCHECK"),
    ("FROM base:1\nHEALTHCHECK NONE x\n", "line 2: HEALTHCHECK: NONE stands alone"),
    ("FROM base:1\nONBUILD FROM x\n", "line 2: ONBUILD: FROM cannot be done later"),
    ("FROM base:1\nONBUILD NOTHING x\n", "line 2: NOTHING: unknown instruction"),
    ("FROM base:1\nRUN cat <<EOF > /x\nhello\nEOF\n", "line 2: RUN: here-documents are not supported"),
    ("FROM base:1\nRUN --network=none x\n", "line 2: RUN: --network is not supported"),
    ("FROM base:1\nCOPY --link 1.txt /\n", "line 2: COPY: --link is not supported"),
    ("RUN x\nFROM base:1\n", "line 1: RUN: before the first FROM"),
    ("FROM base:1\nRUN --mount=type=cache x\n", "line 2: RUN: --mount is not supported"),
    ("FROM base:1\nCOPY nothing /\n", "line 2: COPY: the context has no nothing"),
    ("FROM base:1\nCOPY debug.log /\n", "line 2: COPY: the context has no debug.log (.dockerignore leaves it out)"),
    ("FROM base:1\nCOPY ../../etc/passwd /\n", "line 2: COPY: the context has no ../../etc/passwd"),
    ("FROM base:1\nCOPY 1.txt 2.txt /x\n", "line 2: COPY: with several sources the destination has to end in '/'"),
    ("FROM base:1\nADD http://example.org/x /\n", "line 2: ADD: http://example.org/x: adding from the network"),
    ("FROM base:1\nCOPY --from=none /x /\n", "line 2: COPY: the store has no image none"),
    ("FROM nothing:1\n", "line 1: FROM: the store has no image nothing:1"),
    ("FROM base:1\nEXPOSE x\n", "line 2: EXPOSE: x is no port"),
    ("FROM base:1\nENV A\n", "line 2: ENV: A has no value"),
    ("FROM base:1\nLABEL a=\"b\n", 'line 2: LABEL: a " without its end'),
    ("FROM base:1\nUSER x\nRUN true\n", "line 3: RUN: the image has no user x"),
    ("FROM base:1\nCOPY <<EOF /x\nEOF\n", "line 2: COPY: here-documents are not supported"),
    ("", "line 1: the Dockerfile has no instruction"),
])  # fmt: skip
def test_mistakes_are_told_with_their_line(shared_store: Path, context: Path, text: str, says: str) -> None:
    said = build(shared_store, context, text, fails=1)[1]
    assert says in said[-1]
    assert os.listdir(shared_store / "tmp") == []


def test_lines_and_escapes() -> None:
    found, escape = parse("# escape=`\nFROM a\nrun one `\n# no\n\n  two `\n  three\n\tCMD\t[\"x\", \"y\"]\n")
    assert escape == "`"
    assert [(each.line, each.keyword, each.text, each.words) for each in found] == [
        (2, "FROM", "a", None), (3, "RUN", "one   two   three", None), (8, "CMD", '["x", "y"]', ["x", "y"]),
    ]  # fmt: skip
    with pytest.raises(BuildError, match=r"line 1: escape=x"):
        parse("# escape=x\nFROM a\n")


@pytest.mark.parametrize(("text", "wanted"), [
    ("$A", "1"), ("${A}b", "1b"), ("$AB", ""), ("'$A'", "$A"), ('"$A"', "1"), (r"\$A", "$A"), ('"\\$A"', "$A"),
    ("${A:-x}", "1"), ("${B:-x}", "x"), ("${B:-$A}", "1"), ("${E:-x}", "x"), ("${E-x}", ""), ("${A:+x}", "x"),
    ("${B:+x}", ""), ("${B:-${C:-z}}", "z"), ("$", "$"), ("a$.b", "a$.b"), (r"a\ b", "a b"), ('"a\\b"', "a\\b"),
])  # fmt: skip
def test_variables(text: str, wanted: str) -> None:
    assert words.expand(text, {"A": "1", "E": ""}) == wanted


@pytest.mark.parametrize("text", ["${A", "${A!}", "'", '"', "${B:?is missing}"])
def test_broken_words(text: str) -> None:
    with pytest.raises(words.BadWord):
        words.expand(text, {})


def test_pairs() -> None:
    assert words.pairs("A=1 B='2 3' C=\"$X\"", {"X": "x"}) == [("A", "1"), ("B", "2 3"), ("C", "x")]
    assert words.pairs("A all of = this", {}) == [("A", "all of = this")]


def test_dockerignore() -> None:
    rules = Ignore("# c\n/a\n*.log\n!keep.log\n**/*.tmp\nd/**\n!d/e\nx?z\n[ab].c\nq/../r\n")
    left_out = {"a", "a/b", "x.log", "1.tmp", "s/t/1.tmp", "d/f", "xyz", "b.c", "r"}
    kept = {"b/a", "keep.log", "s/x.log", "d", "d/e", "d/e/f", "xyyz", "c.c", "tmp"}
    assert {path for path in left_out | kept if rules.leaves_out(path)} == left_out
