"""`python -m flawmap`."""

import sys

from flawmap.commands.cli import main

sys.exit(main())
