"""`python -m unionfs` is the `unionfs` command."""

import sys

from unionfs.cli import main

if __name__ == "__main__":
    sys.exit(main())
