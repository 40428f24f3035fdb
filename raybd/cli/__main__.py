"""`python -m raybd.cli`: the command `raybd`."""

import sys

from raybd.cli import main

sys.exit(main())
