"""`unionfs tour layers`: what layers are, shown on small images that the tour makes itself; every claim is checked."""

from __future__ import annotations

import os
import sys

from unionfs.cli.errors import CommandError, UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from unionfs.image.store import Image, Store

USAGE = """usage: unionfs tour layers

Builds small images in a temporary store and shows what their layers tell: which instructions make layers, what the
cache does again after a change, what images share. Exits with 0 only if everything was as claimed.
"""

_TOOLS = ("sh", "cat", "echo", "rm", "ls")


def run(argv: list[bytes]) -> int:
    if argv in ([b"--help"], [b"-h"], []):
        print(USAGE, end="")
        return 0 if argv else 2
    if argv != [b"layers"]:
        raise UsageError("there is one tour: unionfs tour layers")
    import shutil
    import tempfile

    from unionfs.image import userns
    from unionfs.image.errors import ImageError
    from unionfs.image.store import Store

    place = tempfile.mkdtemp(prefix="unionfs-tour-")
    try:
        userns.enter()
        with Store(os.path.join(place, "store")) as store:
            tour = _Tour(store, place)
            tour.all()
    except ImageError as error:
        raise CommandError(f"the tour ended: {error}") from error
    finally:
        shutil.rmtree(place)
    return tour.end()


class _Tour:
    def __init__(self, store: Store, place: str) -> None:
        self._store = store
        self._context = os.path.join(place, "context")
        self._failed = 0
        self._claims = 0
        self._colour = sys.stdout.isatty() and "NO_COLOR" not in os.environ
        os.mkdir(self._context)

    def all(self) -> None:
        base = self._base()
        self._metadata(base)
        self._add(base)
        self._runs(base)
        self._cache()
        self._sharing()
        self._deleting(base)

    def end(self) -> int:
        good = self._claims - self._failed
        self._say("")
        self._say(f"{good} of {self._claims} claims were seen to be true.", "32" if not self._failed else "31")
        return 1 if self._failed else 0

    # what is shown

    def _say(self, text: str, colour: str = "") -> None:
        print(f"\x1b[{colour}m{text}\x1b[0m" if colour and self._colour else text, flush=True)

    def _claim(self, text: str, true: bool) -> None:
        self._claims += 1
        self._failed += not true
        self._say(f"  {'✔' if true else '✘'} {text}", "32" if true else "31")

    def _build(self, name: str, dockerfile: str) -> tuple[Image, list[str]]:
        """(the image, what became of each step), shown as one would see it."""
        from unionfs.cli.image_build import mounted
        from unionfs.image.build.builder import Request, build

        lines: list[str] = []
        request = Request(dockerfile, self._context)
        request.names = [f"{name}:latest"]
        request.report = lines.append
        self._say(f"$ unionfs image build -t {name} .", "1")
        image = build(self._store, request, mounted)
        results: list[str] = []
        for line in lines:
            if line.startswith("  "):
                results.append(line.split()[0])
                self._say(f"      → {line.strip()}", "33" if results[-1] == "CACHED" else "36")
            else:
                self._say(f"    {line.partition(': ')[2]}")
        return image, results

    def _layers(self, image: Image) -> list[str]:
        for number, (diff_id, layer) in enumerate(zip(image.diff_ids, image.layers(), strict=True), 1):
            self._say(f"    layer {number}  {diff_id[7:19]}  {_size(layer.size)}")
        return image.diff_ids

    def _write(self, name: str, text: str) -> None:
        with open(os.path.join(self._context, name), "w", encoding="utf-8") as file:
            file.write(text)

    # the experiments

    def _base(self) -> Image:
        self._say("The base: a shell and its libraries, copied from this machine, in one layer.", "1;34")
        root = os.path.join(self._context, "root")
        os.makedirs(os.path.join(root, "tmp"))
        _shell(root)
        base, _ = self._build("base", "FROM scratch\nCOPY root /\nCMD [\"/bin/sh\"]\n")
        self._claim("the base has one layer", len(self._layers(base)) == 1)
        return base

    def _metadata(self, base: Image) -> None:
        self._say("\nExperiment 1: instructions that only describe.", "1;34")
        image, _ = self._build("exp1", "FROM base\nLABEL purpose=experiment\nCMD [\"echo\", \"hello\"]\n")
        same = self._layers(image) == base.diff_ids
        self._claim("LABEL and CMD make no layer: exp1 has the layers of its base", same)
        self._claim("it is another image all the same", image.config_digest != base.config_digest)
        empty = [entry.get("empty_layer", False) for entry in image.config["history"][-2:]]
        self._claim("its history has the two steps, without layers", empty == [True, True])

    def _add(self, base: Image) -> None:
        self._say("\nExperiment 2: a file.", "1;34")
        self._write("1.txt", "one\n")
        image, _ = self._build("exp2", "FROM base\nADD 1.txt /\n")
        ids = self._layers(image)
        self._claim("ADD makes one layer on top of those of the base", ids[:-1] == base.diff_ids)
        files = sorted(os.listdir(image.layers()[-1].diff))
        self._claim("and nothing is in it but 1.txt", files == ["1.txt"])

    def _runs(self, base: Image) -> None:
        self._say("\nExperiments 3 and 4: three RUNs, and one RUN of three commands.", "1;34")
        three, _ = self._build("exp3", "FROM base\nRUN echo 1 > /one\nRUN echo 2 > /two\nRUN echo 3 > /three\n")
        self._claim("three RUNs make three layers", self._layers(three)[:-3] == base.diff_ids)
        one, _ = self._build("exp4", "FROM base\nRUN echo 1 > /one && echo 2 > /two && echo 3 > /three\n")
        self._claim("one RUN makes one, whatever it does", self._layers(one)[:-1] == base.diff_ids)
        self._claim("the trees have the same files", self._names(three) == self._names(one))

    def _cache(self) -> None:
        self._say("\nThe cache: a file is edited, and the image built again.", "1;34")
        text = "FROM base\nRUN echo tools > /tools\nCOPY 2.txt /\nRUN cat /2.txt > /result\nLABEL a=b\n"
        self._write("2.txt", "first\n")
        first, done = self._build("cached", text)
        self._claim("everything is done the first time", "CACHED" not in done)
        again, done = self._build("cached", text)
        self._claim("nothing is done again when nothing has changed", set(done) == {"CACHED"})
        self._claim("and the image is the very same", again.config_digest == first.config_digest)
        self._write("2.txt", "second\n")
        changed, done = self._build("cached", text)
        self._claim("what comes before the COPY is cached, the COPY and what follows is done again",
                    done == ["CACHED", "layer", "layer", "no"])  # fmt: skip
        self._claim("so the lower layers are the same", changed.diff_ids[:2] == first.diff_ids[:2])

    def _sharing(self) -> None:
        from unionfs.image.usage import usage

        self._say("\nSharing: two images, and what both of them use.", "1;34")
        for row in usage(self._store):
            if row.tags in (["exp2:latest"], ["exp3:latest"]):
                self._say(f"    {row.tags[0]:<12} {_size(row.size):>8}, {_size(row.shared)} of it shared")
        two, three = (self._image(name) for name in ("exp2", "exp3"))
        shared = [layer for layer in two.layers() if layer.chain_id in {other.chain_id for other in three.layers()}]
        saved = sum(layer.size for layer in shared)
        self._say(f"    shared layers: {', '.join(layer.info['diff_id'][7:19] for layer in shared)}")
        base = [layer.info["diff_id"] for layer in shared] == self._image("base").diff_ids
        self._claim(f"they share the base's layer, which is stored once: {_size(saved)} saved", base and saved > 0)

    def _deleting(self, base: Image) -> None:
        from unionfs.image.merged import Merged

        self._say("\nRemoving: a file is gone from the tree, but not from the image.", "1;34")
        self._write("big", "x" * 300_000)
        image, _ = self._build("removed", "FROM base\nCOPY big /\nRUN rm /big\n")
        self._layers(image)
        merged = Merged([layer.diff for layer in image.layers()], rootless=self._store.rootless)
        self._claim("no name of it is left", merged.root.find(b"/big") is None)
        self._claim("its 300 kB are still there, in a layer below", merged.facts[-2].wasted == 300_000)
        self._claim("the top layer holds a whiteout, which takes no space", image.layers()[-1].size == 0)
        self._claim("the image is larger than its base", len(image.diff_ids) == len(base.diff_ids) + 2)

    def _image(self, name: str) -> Image:
        from unionfs.image.find import find

        return find(self._store, name)

    def _names(self, image: Image) -> list[bytes]:
        from unionfs.image.merged import Merged

        merged = Merged([layer.diff for layer in image.layers()], rootless=self._store.rootless)
        return [path for path, _ in merged.root.walk()]


def _size(count: int) -> str:
    from unionfs.cli.image_args import size

    return size(count)


def _shell(root: str) -> None:
    """A shell and a few tools, in /bin below root: busybox where there is one, else this machine's, with libraries."""
    import shutil

    target = os.path.join(root, "bin")
    os.makedirs(target)
    busybox = shutil.which("busybox")
    if busybox:
        _copy_with_libraries(busybox, root)
        for name in _TOOLS:
            os.symlink(os.path.basename(busybox), os.path.join(target, name))
        return
    for name in _TOOLS:
        found = shutil.which(name)
        if found is None:
            raise CommandError(f"the tour needs {name}, or busybox, to put into its base image")
        _copy_with_libraries(found, root)


def _copy_with_libraries(program: str, root: str) -> None:
    import re
    import shutil
    import subprocess

    shutil.copy(program, os.path.join(root, "bin", os.path.basename(program)))
    said = subprocess.run(["ldd", program], capture_output=True, text=True, check=False).stdout
    for library in re.findall(r"(/\S+) \(0x", said):
        target = root + library
        if not os.path.exists(target):
            os.makedirs(os.path.dirname(target), exist_ok=True)
            shutil.copy(library, target)
