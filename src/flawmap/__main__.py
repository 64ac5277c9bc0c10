"""`python -m flawmap`."""

import sys

from flawmap.cli import main

sys.exit(main())
