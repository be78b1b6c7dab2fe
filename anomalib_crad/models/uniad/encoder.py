# SPDX-License-Identifier: Apache-2.0

"""Encoder: tokens that know of all others but their neighbours (UniAD, section 3.1).

Axis letters: B batch, L tokens, E width.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import nn

from anomalib_crad.models.components.transformer import Attention
from anomalib_crad.models.uniad.blocks import AddAndNorm, FeedForward


class EncoderLayer(nn.Module):
    """Self-attention and feed-forward network, each followed by add & norm.

    Args:
        dim: Width of the tokens (E).
        num_heads: Heads of the attention.
        feedforward_dim: Width inside the feed-forward network.
        dropout: Chance of dropout in training.
    """

    def __init__(self, dim: int, num_heads: int, feedforward_dim: int, dropout: float) -> None:
        super().__init__()
        self.attention = Attention(dim, num_heads, dropout)
        self.attention_norm = AddAndNorm(dim, dropout)
        self.feed_forward = FeedForward(dim, feedforward_dim, dropout)
        self.feed_forward_norm = AddAndNorm(dim, dropout)

    def forward(self, tokens: torch.Tensor, position: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Apply the layer.

        Args:
            tokens: B x L x E.
            position: Embedding of positions, L x E; added to queries and keys, not to values.
            mask: L x L, added to the logits of the attention.

        Returns:
            B x L x E.
        """
        placed = tokens + position
        tokens = self.attention_norm(tokens, self.attention(placed, placed, tokens, mask))
        return cast("torch.Tensor", self.feed_forward_norm(tokens, self.feed_forward(tokens)))


class Encoder(nn.Module):
    """A stack of encoder layers.

    Args:
        num_layers: Layers.
        dim: See :class:`EncoderLayer`.
        num_heads: See :class:`EncoderLayer`.
        feedforward_dim: See :class:`EncoderLayer`.
        dropout: See :class:`EncoderLayer`.
    """

    def __init__(self, num_layers: int, dim: int, num_heads: int, feedforward_dim: int, dropout: float) -> None:
        super().__init__()
        self.layers = nn.ModuleList(EncoderLayer(dim, num_heads, feedforward_dim, dropout) for _ in range(num_layers))

    def forward(self, tokens: torch.Tensor, position: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Apply all layers; arguments and result as in :meth:`EncoderLayer.forward`."""
        for layer in self.layers:
            tokens = layer(tokens, position, mask)
        return tokens
