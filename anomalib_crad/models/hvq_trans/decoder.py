# SPDX-License-Identifier: Apache-2.0

"""Decoder: rebuilds tokens from quantised levels of the encoder, the deepest first (HVQ-Trans).

Each layer attends to its own input and then to one quantised level; the layers go from the deepest of these levels to
the shallowest. What is not normal is in none of them. The output layer after them is the expert's.

Axis letters: B batch, L tokens, D width of the decoder, X experts.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn

from anomalib_crad.models.components.transformer import AddAndNorm, Attention, FeedForward

if TYPE_CHECKING:
    from collections.abc import Sequence


class DecoderLayer(nn.Module):
    """Self-attention, attention to a quantised level, feed-forward network, each followed by add & norm.

    Args:
        dim: Width of the tokens (D).
        num_heads: Heads of both attentions.
        feedforward_dim: Width inside the feed-forward network.
        dropout: Chance of dropout in training.
    """

    def __init__(self, dim: int, num_heads: int, feedforward_dim: int, dropout: float) -> None:
        super().__init__()
        self.self_attention = Attention(dim, num_heads, dropout)
        self.self_attention_norm = AddAndNorm(dim, dropout)
        self.level_attention = Attention(dim, num_heads, dropout)
        self.level_attention_norm = AddAndNorm(dim, dropout)
        self.feed_forward = FeedForward(dim, feedforward_dim, dropout)
        self.feed_forward_norm = AddAndNorm(dim, dropout)

    def forward(self, tokens: torch.Tensor, level: torch.Tensor, position: torch.Tensor) -> torch.Tensor:
        """Apply the layer.

        Args:
            tokens: B x L x D.
            level: A quantised level, B x L x D.
            position: Embedding of positions, L x D; added to queries and keys, not to values.

        Returns:
            B x L x D.
        """
        placed = tokens + position
        tokens = self.self_attention_norm(tokens, self.self_attention(placed, placed, tokens))
        update = self.level_attention(tokens + position, level + position, level)
        tokens = self.level_attention_norm(tokens, update)
        return self.feed_forward_norm(tokens, self.feed_forward(tokens))


class Decoder(nn.Module):
    """A stack of decoder layers and a last layer norm.

    Args:
        num_layers: Layers.
        dim: See :class:`DecoderLayer`.
        num_heads: See :class:`DecoderLayer`.
        feedforward_dim: See :class:`DecoderLayer`.
        dropout: See :class:`DecoderLayer`.
    """

    def __init__(self, num_layers: int, dim: int, num_heads: int, feedforward_dim: int, dropout: float) -> None:
        super().__init__()
        self.layers = nn.ModuleList(DecoderLayer(dim, num_heads, feedforward_dim, dropout) for _ in range(num_layers))
        self.norm = nn.LayerNorm(dim)

    def forward(self, levels: Sequence[torch.Tensor], position: torch.Tensor) -> torch.Tensor:
        """Rebuild tokens from quantised levels.

        Args:
            levels: One quantised level a layer, B x L x D each, from the shallowest to the deepest, which is also the
                first layer's input.
            position: Embedding of positions, L x D.

        Returns:
            B x L x D.
        """
        tokens = levels[-1]
        for layer, level in zip(self.layers, reversed(levels), strict=True):
            tokens = layer(tokens, level, position)
        return self.norm(tokens)


class ExpertLinear(nn.Module):
    """One linear layer for each expert.

    Args:
        num_experts: Layers (X).
        in_features: Numbers of a token.
        out_features: Numbers of the result.
    """

    def __init__(self, num_experts: int, in_features: int, out_features: int) -> None:
        super().__init__()
        layers = [nn.Linear(in_features, out_features) for _ in range(num_experts)]
        self.weight = nn.Parameter(torch.stack([layer.weight.detach() for layer in layers]))
        self.bias = nn.Parameter(torch.stack([layer.bias.detach() for layer in layers]))

    def forward(self, tokens: torch.Tensor, experts: torch.Tensor) -> torch.Tensor:
        """Apply to each image the layer of its expert; tokens B x L x in_features, experts ``(B,)``."""
        return tokens @ self.weight[experts].transpose(-2, -1) + self.bias[experts].unsqueeze(1)
