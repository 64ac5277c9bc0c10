"""What several test files need."""

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real images: beside the project's root, or wherever FLAWMAP_DATA points; without it, a skip."""
    folder = Path(os.environ.get("FLAWMAP_DATA", Path(__file__).parents[2] / "shared" / "data"))
    if not (folder / "nanotwice").is_dir():
        pytest.skip(f"no real images in {folder}; set FLAWMAP_DATA to their folder")
    return folder
