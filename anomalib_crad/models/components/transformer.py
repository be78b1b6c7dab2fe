# SPDX-License-Identifier: Apache-2.0

"""Attention that may not look at a token's own neighbourhood (UniAD, section 3.2).

A transformer that rebuilds its input can learn to copy it, anomalies included. A token that is blind to itself and to
what surrounds it, which looks alike, has nothing to copy and must be rebuilt from the rest of the image.

Axis letters: B batch, L tokens (H x W positions, row by row), E width, N heads.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import nn


def neighbor_mask(feature_size: tuple[int, int], neighbor_size: tuple[int, int]) -> torch.Tensor:
    """Say which token may attend to which: to those outside the window around itself.

    Args:
        feature_size: Height and width of the features (H, W).
        neighbor_size: Height and width of the window around a token that it does not see, in positions; both odd.

    Returns:
        What to add to the logits of an attention, L x L: 0 where token ``i`` (row) may attend to token ``j`` (column),
        minus infinity where it may not.

    Raises:
        ValueError: If a side of the window is not odd, or a token would see none at all.
    """
    if any(side < 1 or side % 2 == 0 for side in neighbor_size):
        msg = f"neighbor_size must be two odd numbers, so that a token is its window's centre, got {neighbor_size}."
        raise ValueError(msg)
    height, width = feature_size
    positions = torch.cartesian_prod(torch.arange(height), torch.arange(width))  # L x 2
    distances = (positions[:, None] - positions[None]).abs()  # L x L x 2
    seen = (distances > torch.tensor(neighbor_size) // 2).any(dim=-1)
    if not seen.any(dim=1).all():
        msg = (
            f"neighbor_size {neighbor_size[0]} x {neighbor_size[1]} hides all {height} x {width} positions from some "
            "of them. Take a smaller neighbor_size, or larger images (the features are the image size divided by the "
            "largest stride of layers)."
        )
        raise ValueError(msg)
    return torch.zeros(len(seen), len(seen)).masked_fill(~seen, float("-inf"))


class Attention(nn.Module):
    """Multi-head attention, in plain matrix products.

    It differs from ``nn.MultiheadAttention`` in having one path for training, evaluation and export. An exported graph
    has no more than two products, a sum and a softmax for it; PyTorch's fused attention is exported with a guard
    against tokens that see nothing, which :func:`neighbor_mask` has excluded.

    Args:
        dim: Width of queries, keys, values and output (E); a multiple of ``num_heads``.
        num_heads: Heads (N).
        dropout: Chance that a weight of the attention is dropped in training.
    """

    def __init__(self, dim: int, num_heads: int, dropout: float) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.scale = (dim // num_heads) ** -0.5
        self.query = nn.Linear(dim, dim)
        self.key = nn.Linear(dim, dim)
        self.value = nn.Linear(dim, dim)
        self.output = nn.Linear(dim, dim)
        self.dropout = nn.Dropout(dropout)

    def forward(self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Attend.

        Args:
            query: B x L x E, or 1 x L x E where all images ask the same.
            key: B x L x E.
            value: B x L x E.
            mask: L x L, added to the logits: see :func:`neighbor_mask`.

        Returns:
            B x L x E.
        """
        queries = self._heads(self.query(query)) * self.scale
        logits = queries @ self._heads(self.key(key)).transpose(-2, -1) + mask  # B x N x L x L
        weights = self.dropout(logits.softmax(dim=-1))
        attended = weights @ self._heads(self.value(value))  # B x N x L x E / N
        return cast("torch.Tensor", self.output(attended.transpose(1, 2).flatten(2)))

    def _heads(self, tokens: torch.Tensor) -> torch.Tensor:
        return tokens.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
