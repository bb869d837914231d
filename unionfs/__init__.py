"""unionfs: a union filesystem with the semantics of overlay2, served over FUSE.

Importing the package imports nothing else: the parts are imported where they are used.
"""

__version__ = "0.1.0"
