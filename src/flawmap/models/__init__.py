"""The networks: a table of names to builders."""

from collections.abc import Callable

from flawmap.config import ModelSettings
from flawmap.models.autoencoder import Autoencoder, Drawn
from flawmap.models.initialisation import initialise
from flawmap.models.variational import VariationalAutoencoder, divergence, fixed_noise

__all__ = [
    "NETWORKS",
    "Autoencoder",
    "Drawn",
    "VariationalAutoencoder",
    "divergence",
    "fixed_noise",
    "initialise",
]

NETWORKS: dict[str, Callable[[ModelSettings], Autoencoder]] = {
    "autoencoder": Autoencoder,
    "variational": VariationalAutoencoder,
}
