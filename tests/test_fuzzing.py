"""Damaged files of every format that is read give an image or an InputError; `make soak` does this for an hour."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

SOAK = Path(__file__).parents[1] / "benchmarks" / "soak.py"


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="memory limits as Linux has them")
def test_damaged_files(tmp_path: Path) -> None:
    """Six hundred mutations, in a child process with a memory limit: no other exception, no kill, no hang."""
    command = [sys.executable, SOAK, "--files", "600", "--seed", "24", "--keep", tmp_path / "faults"]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "600 files, 0 faults" in ran.stdout
    for name in ("png", "jpeg", "bmp", "webp", "jp2", "j2k", "pgm", "ppm", "tiff"):
        assert f"\n{name} " in "\n" + ran.stdout
