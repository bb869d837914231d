"""`unionfs image load, save, pull, push`: images on their way in and out."""

from __future__ import annotations

import os
from contextlib import contextmanager

from unionfs.cli.errors import UsageError
from unionfs.cli.image_args import Arguments, report

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator


def load(argv: list[bytes]) -> int:
    """Reads a docker-archive (docker save), an OCI layout directory or an OCI archive, compressed or not; "-" is
    standard input. Prints the names of the images. Every digest is verified.

      --name NAME       call the image so, whatever the archive says
      --platform OS/ARCH[/VARIANT]   which variant of a multi-platform image
      --store DIR
    """
    from unionfs.image import archive_in
    from unionfs.image.find import names_of
    from unionfs.image.load import load as bring_in

    flags = {b"--name": ("name", True), b"--platform": ("platform", True)}
    arguments = Arguments(argv, flags, 1, 1, "load FILE|DIR|-")
    with arguments.store() as store:
        images = archive_in.read(
            arguments.words[0], store, platform=arguments.get("platform"), name=arguments.get("name")
        )
        for incoming in images:
            image = bring_in(store, incoming, report=report)
            for name in names_of(store, image) or [image.config_digest]:
                print(f"Loaded image: {name}")
    return 0


def save(argv: list[bytes]) -> int:
    """Writes images to a file that docker load, skopeo, podman and umoci read: an OCI archive that is a docker-archive
    as well. The blobs are those that came in, so all digests stay. The same images give the same bytes.

      -o, --output PATH   the file ("-": standard output); with a "/" at its end, or a directory: an OCI layout
      --format FORMAT     oci (the default), docker (uncompressed layers, for old readers and zstd images), layout
      --store DIR
    """
    from unionfs.image import save as out

    flags = {b"-o": ("output", True), b"--output": ("output", True), b"--format": ("format", True)}
    arguments = Arguments(argv, flags, 1, None, "save NAME… -o FILE|DIR/")
    path = arguments.get("output")
    layout = bool(path) and path != "-" and (path.endswith("/") or os.path.isdir(path))
    form = arguments.get("format", "layout" if layout else "oci")
    if not path or form not in ("oci", "docker", "layout"):
        raise UsageError("usage: unionfs image save NAME… -o FILE|DIR/ [--format oci|docker|layout]")
    with arguments.store() as store:
        images = out.named(store, arguments.words)
        if form == "layout":
            out.layout(store, images, path)
        else:
            write = out.archive if form == "oci" else out.docker_archive
            with whole_file(path) as fd:
                write(store, images, fd)
    return 0


@contextmanager
def whole_file(path: str) -> Iterator[int]:
    """A descriptor to write; the file appears under its name when it is complete. "-": standard output."""
    if path == "-":
        yield 1
        return
    temporary = f"{path}.{os.getpid()}.part"
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o666)
    try:
        yield fd
        os.rename(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise
    finally:
        os.close(fd)
