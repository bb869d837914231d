"""`unionfs image tag, rm, gc`: what stays in the store."""

from __future__ import annotations

from unionfs.cli.image_args import Arguments, report, size


def tag(argv: list[bytes]) -> int:
    """Gives an image another name; a name that stood for another image moves."""
    from unionfs.image import reference
    from unionfs.image.find import find

    arguments = Arguments(argv, {}, 2, 2, "tag NAME NEW")
    with arguments.store() as store:
        store.tag(reference.parse(arguments.words[1]).familiar, find(store, arguments.words[0]).digest)
    return 0


def rm(argv: list[bytes]) -> int:
    """Removes a name; the image goes with its last name, or at once when named by ID. Its space is given back unless
    another process is at work in the store: then by the next gc.
    """
    from unionfs.image import gc as collector
    from unionfs.image import reference
    from unionfs.image.errors import ImageError
    from unionfs.image.find import find, names_of

    arguments = Arguments(argv, {}, 1, None, "rm NAME…")
    with arguments.store() as store:
        for text in arguments.words:
            image = find(store, text)
            names = names_of(store, image)
            try:
                name = reference.parse(text).familiar
            except ImageError:
                name = ""
            if name in names:
                store.untag(name)
                print(f"Untagged: {name}")
                if any("@" not in other for other in names if other != name):
                    continue
            store.drop_image(image.digest)
            print(f"Deleted: {image.config_digest}")
        freed = collector.collect(store, wait=False)
        report("space is given back by the next gc" if freed is None else f"{size(freed.bytes)} freed")
    return 0


def gc(argv: list[bytes]) -> int:
    """Removes blobs and layers that no image needs, and what interrupted commands left. Waits for other processes
    that add to the store.
    """
    from unionfs.image import gc as collector

    with Arguments(argv, {}, 0, 0, "gc").store() as store:
        freed = collector.collect(store)
        assert freed is not None
        print(
            f"{freed.layers} layers, {freed.blobs} blobs, {freed.leftovers} leftovers: {size(freed.bytes)} freed"
        )
    return 0
