"""`unionfs image load, save, pull, push`: images on their way in and out."""

from __future__ import annotations

from unionfs.cli.image_args import Arguments, report


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
