# SPDX-License-Identifier: Apache-2.0

"""Layer-wise query decoder: every layer asks with queries of its own (UniAD, section 3.3).

With one query embedding at the start, later layers see a mixture that already holds the input and can pass it through.
Here each layer starts from its own learned queries, which know normal images only, and the input enters as keys and
values alone.

Axis letters: B batch, L tokens, E width.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import nn

from anomalib_crad.models.components.transformer import Attention
from anomalib_crad.models.uniad.blocks import AddAndNorm, FeedForward


class DecoderLayer(nn.Module):
    """Learned queries attend to the encoder's output, then to the previous layer's, then a feed-forward network.

    Args:
        num_tokens: Tokens of an image (L).
        dim: Width of the tokens (E).
        num_heads: Heads of both attentions.
        feedforward_dim: Width inside the feed-forward network.
        dropout: Chance of dropout in training.
    """

    def __init__(self, num_tokens: int, dim: int, num_heads: int, feedforward_dim: int, dropout: float) -> None:
        super().__init__()
        self.queries = nn.Parameter(torch.randn(num_tokens, dim))
        self.encoded_attention = Attention(dim, num_heads, dropout)
        self.encoded_norm = AddAndNorm(dim, dropout)
        self.previous_attention = Attention(dim, num_heads, dropout)
        self.previous_norm = AddAndNorm(dim, dropout)
        self.feed_forward = FeedForward(dim, feedforward_dim, dropout)
        self.feed_forward_norm = AddAndNorm(dim, dropout)

    def forward(
        self,
        previous: torch.Tensor,
        encoded: torch.Tensor,
        position: torch.Tensor,
        mask: torch.Tensor,
    ) -> torch.Tensor:
        """Apply the layer.

        Args:
            previous: Output of the previous layer, B x L x E.
            encoded: Output of the encoder, B x L x E.
            position: Embedding of positions, L x E; added to queries and keys, not to values.
            mask: L x L, added to the logits of the attention.

        Returns:
            B x L x E.
        """
        queries = self.queries.unsqueeze(0)  # 1 x L x E, the same for every image
        update = self.encoded_attention(queries + position, encoded + position, encoded, mask)
        tokens = self.encoded_norm(queries, update)  # B x L x E
        update = self.previous_attention(tokens + position, previous + position, previous, mask)
        tokens = self.previous_norm(tokens, update)
        return cast("torch.Tensor", self.feed_forward_norm(tokens, self.feed_forward(tokens)))


class Decoder(nn.Module):
    """A stack of decoder layers and a last layer norm; the first layer's "previous output" is the encoder's.

    Args:
        num_layers: Layers.
        num_tokens: See :class:`DecoderLayer`.
        dim: See :class:`DecoderLayer`.
        num_heads: See :class:`DecoderLayer`.
        feedforward_dim: See :class:`DecoderLayer`.
        dropout: See :class:`DecoderLayer`.
    """

    def __init__(
        self, num_layers: int, num_tokens: int, dim: int, num_heads: int, feedforward_dim: int, dropout: float
    ) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            DecoderLayer(num_tokens, dim, num_heads, feedforward_dim, dropout) for _ in range(num_layers)
        )
        self.norm = nn.LayerNorm(dim)

    def forward(self, encoded: torch.Tensor, position: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Apply all layers; arguments and result as in :meth:`DecoderLayer.forward`."""
        tokens = encoded
        for layer in self.layers:
            tokens = layer(tokens, encoded, position, mask)
        return cast("torch.Tensor", self.norm(tokens))
