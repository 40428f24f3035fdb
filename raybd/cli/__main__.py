"""`python -m raybd.cli`: the command `raybd`."""

import sys

from raybd.cli import main

if __name__ == "__main__":
    sys.exit(main())
