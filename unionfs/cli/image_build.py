"""`unionfs image build`: an image from a Dockerfile."""

from __future__ import annotations

import os
import sys

from unionfs.cli.args import parse
from unionfs.cli.errors import CommandError, UsageError
from unionfs.cli.image_args import report

TYPE_CHECKING = False
if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from unionfs.image.store import Layer, Store

_FLAGS = {
    b"-f": ("file", True), b"--file": ("file", True), b"-t": ("tag", True), b"--tag": ("tag", True),
    b"--build-arg": ("arg", True), b"--target": ("target", True), b"--no-cache": ("no-cache", False),
    b"-q": ("quiet", False), b"--quiet": ("quiet", False), b"--store": ("store", True),
}  # fmt: skip


def build(argv: list[bytes]) -> int:
    """Builds an image from CONTEXT/Dockerfile. Base images come from the store. Says for each step whether it is
    CACHED, and prints the image's ID at the end.

      -f, --file FILE         another Dockerfile ("-": standard input)
      -t, --tag NAME          its name; may be given more than once
      --build-arg NAME=VALUE  for an ARG; without =VALUE from the environment
      --target STAGE          stop with this stage
      --no-cache              do every step
      -q, --quiet             print nothing but the ID
      --store DIR
    """
    from unionfs.image import reference, userns
    from unionfs.image.build.builder import build as make
    from unionfs.image.store import Store

    found, positionals = parse(argv, _FLAGS)
    if len(positionals) != 1:
        raise UsageError("usage: unionfs image build [-f FILE] [-t NAME] CONTEXT")
    flags = [(name, os.fsdecode(value)) for name, value in found]
    given = dict(flags)
    request = _request(os.fsdecode(positionals[0]), given.get("file", ""))
    request.names = [reference.parse(value).familiar for name, value in flags if name == "tag"]
    request.target = given.get("target", "")
    request.use_cache = "no-cache" not in given
    for name, value in flags:
        if name == "arg":
            key, equals, text = value.partition("=")
            request.args[key] = text if equals else os.environ.get(key, "")
    if "quiet" not in given:
        request.report = report
    userns.enter()
    with Store(given.get("store") or None) as store:
        image = make(store, request, mounted)
    print(image.config_digest)
    return 0


def _request(context: str, file: str) -> Request:
    from unionfs.image.build.builder import Request

    if not os.path.isdir(context):
        raise CommandError(f"{context}: the context has to be a directory")
    path = file or os.path.join(context, "Dockerfile")
    ignore = next((text for name in (path + ".dockerignore", os.path.join(context, ".dockerignore"))
                   if (text := _text(name)) is not None), "")  # fmt: skip
    text = sys.stdin.read() if file == "-" else _text(path)
    if text is None:
        raise CommandError(f"{path}: no such file; -f names another Dockerfile")
    return Request(text, context, ignore)


def _text(path: str) -> str | None:
    try:
        with open(path, encoding="utf-8") as file:
            return file.read()
    except FileNotFoundError:
        return None


def mounted(
    store: Store, layers: list[Layer], lowers: list[str], upper: str, work: str, mountpoint: str
) -> AbstractContextManager[None]:
    """The mount in which a RUN works."""
    from unionfs.cli import image_mount

    request = image_mount.Request(lowers, upper, work, rootless=store.rootless)
    request.volatile()
    return image_mount.mounted(store, layers, request, mountpoint)


if TYPE_CHECKING:
    from unionfs.image.build.builder import Request
