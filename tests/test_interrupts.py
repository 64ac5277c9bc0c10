"""Ctrl-C that waits, in a process of its own: a signal is not for a process that others' tests share."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ALONE = Path(__file__).with_name("interrupts_alone.py")


def test_ctrl_c_waits_for_a_safe_place() -> None:
    """All that `interrupts_alone.py` asserts."""
    command = [sys.executable, "-m", "pytest", "-v", "-p", "no:xdist", "-p", "no:cacheprovider", str(ALONE)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "6 passed" in done.stdout
