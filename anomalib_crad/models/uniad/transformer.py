# SPDX-License-Identifier: Apache-2.0

"""UniAD's transformer, which cannot copy its input (UniAD, sections 3.2 to 3.4).

A network that rebuilds its input can learn to copy it, anomalies included. Three parts prevent that here:

- :class:`FeatureJitter` adds noise to the input in training, and the clean features must be rebuilt;
- :func:`neighbor_mask` hides a token and its neighbourhood, which looks alike, from the token itself;
- each :class:`DecoderLayer` starts from learned queries of its own, which know normal images only. With one query
  embedding at the start, later layers would receive a mixture that holds the input and could pass it through.

Axis letters: B batch, L tokens (H x W positions, row by row), E width, C channels.
"""

from __future__ import annotations

import torch
from torch import nn

from anomalib_crad.models.components.transformer import AddAndNorm, Attention, EncoderLayer, FeedForward

JITTER_SCALE = 20.0
JITTER_PROBABILITY = 1.0


class FeatureJitter(nn.Module):
    """Gaussian noise on tokens in training, in proportion to the norm of each token.

    The standard deviation for token f is ``scale * ||f|| / C``. One draw decides for a whole batch: all of its tokens
    are disturbed, or none.

    Args:
        scale: See above. Defaults to ``20.0``.
        probability: Chance that a batch is disturbed. Defaults to ``1.0``.

    Raises:
        ValueError: If ``scale`` is negative or ``probability`` is not in [0, 1].
    """

    def __init__(self, scale: float = JITTER_SCALE, probability: float = JITTER_PROBABILITY) -> None:
        super().__init__()
        if not scale >= 0 or not 0 <= probability <= 1:
            msg = f"jitter_scale must be >= 0 and jitter_probability in [0, 1], got {scale} and {probability}."
            raise ValueError(msg)
        self.scale = scale
        self.probability = probability

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Return tokens B x L x C, disturbed in training mode only."""
        if not self.training or torch.rand(1).item() >= self.probability:
            return tokens
        std = self.scale / tokens.shape[-1] * torch.linalg.vector_norm(tokens, dim=-1, keepdim=True)  # B x L x 1
        return tokens + std * torch.randn_like(tokens)


def neighbor_mask(feature_size: tuple[int, int], neighbor_size: tuple[int, int]) -> torch.Tensor:
    """Let each token attend only to tokens outside the window around itself.

    Args:
        feature_size: Height and width of the features (H, W).
        neighbor_size: Height and width of the window, in positions; both odd.

    Returns:
        What to add to the logits of an attention, L x L: 0 where token ``i`` (row) may attend to token ``j`` (column),
        minus infinity where it may not.

    Raises:
        ValueError: If a side of the window is not odd, or a token could attend to none.
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


class Encoder(nn.Module):
    """A stack of encoder layers.

    Args:
        num_layers: Layers.
        dim: Width of the tokens (E).
        num_heads: Heads of each attention.
        feedforward_dim: Width inside the feed-forward networks.
        dropout: Chance of dropout in training.
    """

    def __init__(self, num_layers: int, dim: int, num_heads: int, feedforward_dim: int, dropout: float) -> None:
        super().__init__()
        self.layers = nn.ModuleList(EncoderLayer(dim, num_heads, feedforward_dim, dropout) for _ in range(num_layers))

    def forward(self, tokens: torch.Tensor, position: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Apply all layers to tokens B x L x E; ``position`` is L x E, ``mask`` L x L."""
        for layer in self.layers:
            tokens = layer(tokens, position, mask)
        return tokens


class DecoderLayer(nn.Module):
    """Learned queries attend to the encoder's output, then to the previous layer's; a feed-forward network follows.

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
            mask: L x L, added to the logits of both attentions.

        Returns:
            B x L x E.
        """
        queries = self.queries.unsqueeze(0)  # 1 x L x E, the same for every image
        update = self.encoded_attention(queries + position, encoded + position, encoded, mask)
        tokens = self.encoded_norm(queries, update)  # B x L x E
        update = self.previous_attention(tokens + position, previous + position, previous, mask)
        tokens = self.previous_norm(tokens, update)
        return self.feed_forward_norm(tokens, self.feed_forward(tokens))


class Decoder(nn.Module):
    """A stack of decoder layers and a last layer norm; the first layer takes the encoder's output as the previous one.

    Args:
        num_layers: Layers.
        num_tokens: Tokens of an image (L).
        dim: Width of the tokens (E).
        num_heads: Heads of each attention.
        feedforward_dim: Width inside the feed-forward networks.
        dropout: Chance of dropout in training.
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
        """Decode ``encoded``, B x L x E; arguments and result as in :meth:`DecoderLayer.forward`."""
        tokens = encoded
        for layer in self.layers:
            tokens = layer(tokens, encoded, position, mask)
        return self.norm(tokens)
