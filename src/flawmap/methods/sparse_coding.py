"""Sparse codes of many signals at once: basis pursuit denoising by the alternating direction method of multipliers.

References:
    Chen, Donoho and Saunders 2001, doi:10.1137/S003614450037906X, for the problem; Boyd et al. 2011,
    doi:10.1561/2200000016, section 6.4 for the method and 3.4.3 for the over-relaxation.
"""

from __future__ import annotations

import torch
from torch import Tensor

ROUNDS = 20  # on windows of nanofibres error and l1 norm are then within 2 % of their spread
RELAXATION = 1.8
LOT = 1024  # signals at once: what a round touches stays in the caches


def sparse_codes(signals: Tensor, dictionary: Tensor, penalty: float, rounds: int = ROUNDS) -> Tensor:
    """argmin over x of 1/2 |s - x D|^2 + penalty |x|_1, for every signal s; about as exact as `rounds` allow.

    The number of rounds is fixed, so a code does not depend on the other signals.

    Args:
        signals: (n, D). dictionary: (K, D), its atoms of norm 1. penalty: lambda, above 0.
    Returns:
        (n, K), most of it exactly 0.
    """
    gram = dictionary @ dictionary.T
    inverse = torch.linalg.inv(gram + torch.eye(len(gram)).to(gram))  # rho is 1, as the atoms' norms are
    projection = dictionary.T @ inverse
    lots = (signals[start : start + LOT] for start in range(0, len(signals), LOT))
    return torch.cat([_codes(lot @ projection, inverse, penalty, rounds) for lot in lots])


def _codes(base: Tensor, inverse: Tensor, penalty: float, rounds: int) -> Tensor:
    """base: (n, K), the codes' least squares part. x, z, u: the names of Boyd et al."""
    z_nk = u_nk = torch.zeros_like(base)
    for _ in range(rounds):
        x_nk = torch.addmm(base, z_nk - u_nk, inverse)
        mixed = RELAXATION * x_nk + (1 - RELAXATION) * z_nk + u_nk
        u_nk = mixed.clamp(-penalty, penalty)
        z_nk = mixed - u_nk  # soft thresholding
    return z_nk
