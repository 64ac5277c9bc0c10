"""What several test files need."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

# The tensors of the tests are small: threads that wait for each other cost ten times what they bring, the more so on a
# busy machine. Set before anything imports torch; processes that tests start inherit it.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# Which engine is the fastest differs from machine to machine, and with it the bits of a map; what chooses it is tested
# by itself.
os.environ["FLAWMAP_ENGINE_CACHE"] = "off"


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real images: beside the project's root, or wherever FLAWMAP_DATA points; without it, a skip."""
    folder = Path(os.environ.get("FLAWMAP_DATA", Path(__file__).parents[2] / "shared" / "data"))
    if not (folder / "nanotwice").is_dir():
        pytest.skip(f"no real images in {folder}; set FLAWMAP_DATA to their folder")
    return folder


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Sums over threads may come in any order; one thread makes bits comparable."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def ray_started() -> Iterator[None]:
    """One Ray for all tests."""
    from flawmap.cluster import archive

    with archive.started("local"):
        yield


# The same examples on every machine and in every run; a loaded machine is no failure.
settings.register_profile("repeatable", derandomize=True, deadline=None, max_examples=25, database=None)
settings.load_profile("repeatable")
