"""The FUSE protocol as values: golden messages, truncations, random bytes, sizes against the C header."""
