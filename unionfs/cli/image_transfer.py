"""`unionfs image load, save, pull, push`: images on their way in and out."""

from __future__ import annotations

import os
from contextlib import contextmanager

from unionfs.cli.errors import CommandError, UsageError
from unionfs.cli.image_args import LIMITS, Arguments, limits, report

TYPE_CHECKING = False
if TYPE_CHECKING:
    import ssl
    from collections.abc import Iterator

    from unionfs.image.reference import Reference
    from unionfs.image.registry import Repository


def load(argv: list[bytes]) -> int:
    """Reads a docker-archive (docker save), an OCI layout directory or an OCI archive, compressed or not; "-" is
    standard input. Prints the names of the images. Every digest is verified.

      --name NAME       call the image so, whatever the archive says
      --platform OS/ARCH[/VARIANT]   which variant of a multi-platform image
      --max-size SIZE, --max-entries N   refuse a layer with more bytes (1T; k, M, G, T), or more entries (10M)
      --store DIR
    """
    from unionfs.image import archive_in
    from unionfs.image.load import load as bring_in

    flags = {b"--name": ("name", True), b"--platform": ("platform", True), **LIMITS}
    arguments = Arguments(argv, flags, 1, 1, "load FILE|DIR|-")
    bounds = limits(arguments)
    with arguments.store() as store:
        images = archive_in.read(
            arguments.words[0], store, platform=arguments.get("platform"), name=arguments.get("name")
        )
        for incoming in images:
            image = bring_in(store, incoming, limits=bounds, report=report)
            for name in incoming.names or [image.config_digest]:
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


_REGISTRY = {
    b"--plain-http": ("plain", False), b"--username": ("username", True), b"--ca": ("ca", True),
    b"--password-stdin": ("password", False), b"--no-tls-verify": ("unverified", False),
}  # fmt: skip


def pull(argv: list[bytes]) -> int:
    """Fetches an image, [HOST[:PORT]/]PATH[:TAG][@DIGEST], from its registry. What the store has is not fetched
    again, an interrupted pull goes on where it stopped, every digest is verified. Logins of docker and podman are used.

      --platform OS/ARCH[/VARIANT]   which variant of a multi-platform image
      --max-size SIZE, --max-entries N   as for load
      --username USER --password-stdin
      --ca FILE           trust this certificate authority as well
      --no-tls-verify     encrypt, but do not ask who is at the other end
      --plain-http        no encryption (a registry on this machine may do without by itself)
      --store DIR
    """
    from unionfs.cli.image_progress import Bars
    from unionfs.image import reference
    from unionfs.image.transfer import pull as fetch

    arguments = Arguments(argv, {**_REGISTRY, **LIMITS, b"--platform": ("platform", True)}, 1, 1, "pull NAME")
    wanted = reference.parse(arguments.words[0])
    bars = Bars()
    with arguments.store() as store, _repository(arguments, wanted) as repository:
        try:
            platform = arguments.get("platform")
            image = fetch(
                store, repository, wanted, bars, platform=platform, limits=limits(arguments), report=bars.say
            )
        finally:
            bars.close()
    print(f"{wanted.familiar}: {image.config_digest}")
    return 0


def push(argv: list[bytes]) -> int:
    """Sends an image to the registry that its name, or TARGET, says. Blobs that are there are not sent again. Prints
    the digest it has there.

      --as-is             do not compress layers that came in uncompressed
      --username, --password-stdin, --ca, --no-tls-verify, --plain-http, --store   as for pull
    """
    from unionfs.cli.image_progress import Bars
    from unionfs.image import reference
    from unionfs.image.find import find
    from unionfs.image.transfer import push as send

    arguments = Arguments(argv, {**_REGISTRY, b"--as-is": ("as-is", False)}, 1, 2, "push NAME [TARGET]")
    target = reference.parse(arguments.words[-1])
    bars = Bars()
    with arguments.store() as store, _repository(arguments, target) as repository:
        image = find(store, arguments.words[0])
        try:
            digest = send(store, image, repository, target.tag, bars, compress=not arguments.has("as-is"))
        finally:
            bars.close()
    print(f"{target.familiar}: {digest}")
    return 0


def _repository(arguments: Arguments, target: Reference) -> Repository:
    """The registry's side, with the login that the arguments or the login files give."""
    import sys

    from unionfs.image.credentials import Credentials, stored
    from unionfs.image.registry import Repository

    credentials = None
    if arguments.has("username"):
        if not arguments.has("password"):
            raise UsageError("--username needs --password-stdin: passwords do not belong on a command line")
        credentials = Credentials(arguments.get("username"), sys.stdin.readline().rstrip("\r\n"))
    return Repository(
        target, plain=arguments.has("plain"), credentials=credentials or stored(target.host),
        context=_tls(arguments),
    )  # fmt: skip


def _tls(arguments: Arguments) -> ssl.SSLContext | None:
    """Whom to trust; None: whom the machine trusts."""
    import ssl

    authority = arguments.get("ca")
    if not authority and not arguments.has("unverified"):
        return None
    context = ssl.create_default_context()
    try:
        if authority:
            context.load_verify_locations(authority)
    except ssl.SSLError:
        raise CommandError(f"--ca {authority}: no certificates in PEM form in it") from None
    except OSError as error:
        raise CommandError(f"--ca {authority}: {error.strerror}") from None
    if arguments.has("unverified"):
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context
