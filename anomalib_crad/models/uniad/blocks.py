# SPDX-License-Identifier: Apache-2.0

"""What encoder and decoder layers are made of besides attention: the feed-forward network, and add & norm.

The transformer is post-norm, as the first ones were: the sum of input and update is normalised, not the input.

Axis letters: B batch, L tokens, E width.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import nn


class FeedForward(nn.Sequential):
    """Two linear layers on each token, with ReLU and dropout between them.

    Args:
        dim: Width of input and output (E).
        hidden_dim: Width between the layers.
        dropout: Chance that a hidden number is dropped in training.
    """

    def __init__(self, dim: int, hidden_dim: int, dropout: float) -> None:
        super().__init__(nn.Linear(dim, hidden_dim), nn.ReLU(), nn.Dropout(dropout), nn.Linear(hidden_dim, dim))


class AddAndNorm(nn.Module):
    """Add an update to tokens and normalise each token.

    Args:
        dim: Width of the tokens (E).
        dropout: Chance that a number of the update is dropped in training.
    """

    def __init__(self, dim: int, dropout: float) -> None:
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        self.norm = nn.LayerNorm(dim)

    def forward(self, tokens: torch.Tensor, update: torch.Tensor) -> torch.Tensor:
        """Return ``norm(tokens + update)``, B x L x E as both inputs."""
        return cast("torch.Tensor", self.norm(tokens + self.dropout(update)))
