"""ADD of local tar archives, compressed or not: their content is added in their place."""

from __future__ import annotations

import os
from contextlib import closing

from unionfs.image.build.copying import Copier, Source, Target
from unionfs.image.build.ignore import Ignore
from unionfs.image.build.tree import Tree
from unionfs.image.codec import decompress
from unionfs.image.errors import BadArchive
from unionfs.image.tar_read import TarReader
from unionfs.image.unpack import Limits, Unpacker


def unpack_all(image: Tree, target: Target, sources: list[Source], place: str) -> list[Source]:
    """Add the archives among the sources to the image; the other sources, which are to be copied as they are.

    place: a scratch directory. Owners, modes and times are the archive's, unless the target says otherwise.
    """
    plain = []
    for number, source in enumerate(sources):
        if source.node.is_dir or not is_archive(source):
            plain.append(source)
            continue
        directory = os.path.join(place, f"archive{number}")
        os.mkdir(directory, 0o755)
        _unpack(source, directory, rootless=image.rootless)
        inside = Target(os.fsdecode(target.path), target.owner if target.owner != (0, 0) else None, target.mode,
                        directory=True)  # fmt: skip
        with Tree([directory], rootless=image.rootless) as tree:
            root = Source(tree, "", tree.union.root, tree.union.stat(tree.union.root))
            Copier(image, inside, Ignore("")).copy([root])
    return plain


def is_archive(source: Source) -> bool:
    """Whether a file is a tar archive, by its content, as in Docker."""
    with closing(source.tree.data(source.node)) as data:
        try:
            return next(iter(TarReader(decompress(data))), None) is not None
        except BadArchive:
            return False


def _unpack(source: Source, directory: str, *, rootless: bool) -> None:
    unpacker = Unpacker(os.fsencode(directory), [], rootless=rootless, limits=Limits())
    with closing(source.tree.data(source.node)) as data:
        unpacker.run(TarReader(decompress(data)))
