"""The cost model of a cluster: hand-made numbers, and what holds of any."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scaling import Cluster, ImageCost, expected

COST = ImageCost(detector=0.09, overhead=0.01, driver=0.001, read=1e6, written=500)
WIDE = Cluster(nodes=10, detectors_per_node=16, node_network=1e9, storage=1e10, disk=1e9)


@pytest.mark.parametrize(
    ("cluster", "rate", "limit"),
    [
        (WIDE._replace(nodes=5), 800, "detectors"),
        (WIDE, 1000, "rows of the driver"),
        (WIDE._replace(storage=2e8), 200, "network of the storage"),
        (WIDE._replace(node_network=1e8), 500, "network of the nodes"),
        (WIDE._replace(disk=1e5), 200, "disk of the parts"),
    ],
)
def test_what_saturates_first(cluster: Cluster, rate: float, limit: str) -> None:
    """5 nodes of 16 detectors at 0.1 s; one driver at 1 ms; 1 MB an image, which crosses the nodes' network twice."""
    found = expected(COST, cluster)
    assert (found.rate, found.limit) == (pytest.approx(rate), limit)
    assert (found.read, found.written) == (pytest.approx(rate * 1e6), pytest.approx(rate * 500))


amounts = st.floats(1e-4, 1e4)


@given(cost=st.builds(ImageCost, *[amounts] * 5), nodes=st.integers(1, 100), rest=st.tuples(amounts, amounts, amounts))
def test_more_nodes_are_never_slower(cost: ImageCost, nodes: int, rest: tuple[float, float, float]) -> None:
    """Twice the nodes give at most twice the images, and at least as many; no part does more than it can."""
    one, two = (expected(cost, Cluster(number, 4, *rest)) for number in (nodes, 2 * nodes))
    assert one.rate <= two.rate <= 2 * one.rate * (1 + 1e-9)
    assert one.rate == min(one.rates.values())
    assert one.written <= rest[2] * (1 + 1e-9)
