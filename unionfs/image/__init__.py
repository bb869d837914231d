"""Container images: archives, layouts and registries in, a store of unpacked overlay layers, and out again.

archive_in, registry        where images come from: each yields an `incoming.Incoming`
load                        an incoming image → the store, every digest verified
codec, tar_read, unpack     one layer: compressed bytes → tar entries → an overlay layer directory
store, blobs, writable      blobs, layers by chain id, images, names; writable layers
chain, merged, describe     questions about layers, and about images
tar_write, pack, save       a directory → a layer tar; an image → an archive
sandbox, userns, build      running a command in an image; as an ordinary user; Dockerfiles
docker_store                Docker's own layers
"""
