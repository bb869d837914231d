"""Verbs on one directory tree: relative to a directory descriptor, one name at a time, never following a symlink."""
