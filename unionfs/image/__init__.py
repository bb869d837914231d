"""Container images: archives, layouts and registries in, a store of unpacked overlay layers, and out again.

archive_in, registry        where images come from: each yields an `incoming.Image`
load                        an incoming image → the store, every digest verified
codec, tar_read, unpack     one layer: compressed bytes → tar entries → an overlay layer directory
store                       blobs, layers by chain id, images, names
chain, seeing, inspect      questions about images
tar_write, pack, save       a directory → a layer tar; an image → an archive
"""
