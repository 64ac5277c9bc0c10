"""How long a program waits before flawmap answers: imports, help, and an argument that is wrong, each a new process.

    python benchmarks/startup.py [--repeats 7] [--json FILE]

"times" is how many times as fast as `import torch`, which nothing here needs before a network runs.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from functools import partial

from measuring import medians, parsed, parser, report

COMMANDS = {
    "import torch": ["-c", "import torch"],
    "python itself": ["-c", ""],
    "import flawmap": ["-c", "import flawmap"],
    "flawmap --help": ["-m", "flawmap", "--help"],
    "flawmap train --help": ["-m", "flawmap", "train", "--help"],
    "flawmap train --steps x": ["-m", "flawmap", "train", "here", "--steps", "x"],
    "flawmap inspect --help": ["-m", "flawmap", "inspect", "--help"],
}


def main(arguments: Sequence[str] | None = None) -> int:
    given = parsed(parser(__doc__, repeats=7), arguments)
    works = {
        name: partial(subprocess.run, [sys.executable, *command], capture_output=True, check=False)
        for name, command in COMMANDS.items()
    }
    report(medians("startup", "a new process", works, given.repeats, warm=1), given)
    return 0


if __name__ == "__main__":
    sys.exit(main())
