# SPDX-License-Identifier: Apache-2.0

"""Learned position embedding: where a token is, told by its column and its row (UniAD, section 3.1).

Axis letters: H x W positions, L = H * W tokens row by row, E width.
"""

from __future__ import annotations

import torch
from torch import nn


class PositionEmbedding(nn.Module):
    """One learned vector a column and one a row; a position is its column's numbers, then its row's.

    Args:
        feature_size: Height and width of the features (H, W).
        dim: Width of the embedding (E), even: one half is the column's, the other the row's.

    Raises:
        ValueError: If ``dim`` is odd.
    """

    def __init__(self, feature_size: tuple[int, int], dim: int) -> None:
        super().__init__()
        if dim % 2:
            msg = f"hidden_dim must be even, half of it tells the column and half the row, got {dim}."
            raise ValueError(msg)
        self.rows = nn.Parameter(torch.rand(feature_size[0], dim // 2))
        self.columns = nn.Parameter(torch.rand(feature_size[1], dim // 2))

    def forward(self) -> torch.Tensor:
        """Return the embedding of all positions, L x E."""
        height, width = len(self.rows), len(self.columns)
        columns = self.columns.expand(height, -1, -1)  # H x W x E / 2
        rows = self.rows.unsqueeze(1).expand(-1, width, -1)  # H x W x E / 2
        return torch.cat((columns, rows), dim=-1).flatten(0, 1)
