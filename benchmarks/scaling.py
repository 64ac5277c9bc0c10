"""What a cluster of many nodes may give, from what one image costs on one machine: the slowest part limits all."""

from __future__ import annotations

from typing import NamedTuple


class ImageCost(NamedTuple):
    """What one image takes. Seconds, and bytes.

    detector: of a detector, from the image's bytes to its row. overhead: of the same detector, between two images.
    driver: of the process that gathers rows. read, written: bytes of the image's file, and of its row in a part.
    """

    detector: float
    overhead: float
    driver: float
    read: float
    written: float


class Cluster(NamedTuple):
    """Bytes are a second. node_network: of each node. storage: of where the images lie, to all nodes together.
    disk: of the parts."""

    nodes: int
    detectors_per_node: int
    node_network: float
    storage: float
    disk: float


class Expectation(NamedTuple):
    """rate: images a second. limit: what saturates first. rates: what each part would allow. read, written: bytes a
    second at that rate, of the storage and of the parts' disk."""

    rate: float
    limit: str
    rates: dict[str, float]
    read: float
    written: float


CROSSINGS = 2
"""How often an image crosses a node's network: from the storage to a reader, and from there to another node's detector.
Ray prefers a detector beside the reader, so this is the worst case."""


def expected(cost: ImageCost, cluster: Cluster) -> Expectation:
    """The images a second of a long run, without the start of its detectors."""
    detectors = cluster.nodes * cluster.detectors_per_node
    rates = {
        "detectors": detectors / (cost.detector + cost.overhead),
        "network of the nodes": cluster.nodes * cluster.node_network / (CROSSINGS * cost.read),
        "network of the storage": cluster.storage / cost.read,
        "rows of the driver": 1 / cost.driver,
        "disk of the parts": cluster.disk / cost.written,
    }
    limit = min(rates, key=lambda name: rates[name])
    rate = rates[limit]
    return Expectation(rate, limit, rates, rate * cost.read, rate * cost.written)
