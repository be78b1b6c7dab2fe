# SPDX-License-Identifier: Apache-2.0

"""Parts of transformers that several models share: attention, feed-forward network, add & norm, positions.

The layers are post-norm, as in the first transformers: the sum of input and update is normalised, not the input.
Positions are added to queries and keys, never to values.

Axis letters: B batch, L tokens (H x W positions, row by row), E width, N heads.
"""

from __future__ import annotations

import torch
from torch import nn


class Attention(nn.Module):
    """Multi-head attention, in plain matrix products.

    It differs from ``nn.MultiheadAttention`` in having one path for training, evaluation and export. An exported graph
    needs only two products, a sum and a softmax for it. PyTorch's fused attention would be exported with a guard
    against tokens that may attend to nothing, which the masks of our models rule out.

    Args:
        dim: Width of queries, keys, values and output (E); a multiple of ``num_heads``.
        num_heads: Heads (N).
        dropout: Chance that an attention weight is dropped in training.
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

    def forward(
        self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Attend.

        Args:
            query: B x L x E, or 1 x L x E where all images ask the same.
            key: B x L x E.
            value: B x L x E.
            mask: L x L, added to the logits: minus infinity where a query (row) may not attend to a key (column).
                Defaults to ``None``: every token attends to all.

        Returns:
            B x L x E.
        """
        queries = self._heads(self.query(query)) * self.scale
        logits = queries @ self._heads(self.key(key)).transpose(-2, -1)  # B x N x L x L
        if mask is not None:
            logits = logits + mask
        weights = self.dropout(logits.softmax(dim=-1))
        attended = weights @ self._heads(self.value(value))  # B x N x L x E / N
        return self.output(attended.transpose(1, 2).flatten(2))

    def _heads(self, tokens: torch.Tensor) -> torch.Tensor:
        return tokens.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)


class FeedForward(nn.Sequential):
    """Two linear layers on each token, with ReLU and dropout between them.

    Args:
        dim: Width of input and output (E).
        hidden_dim: Width between the layers.
        dropout: Chance that a hidden value is dropped in training.
    """

    def __init__(self, dim: int, hidden_dim: int, dropout: float) -> None:
        super().__init__(nn.Linear(dim, hidden_dim), nn.ReLU(), nn.Dropout(dropout), nn.Linear(hidden_dim, dim))


class AddAndNorm(nn.Module):
    """Add an update to tokens and normalise each token.

    Args:
        dim: Width of the tokens (E).
        dropout: Chance that a value of the update is dropped in training.
    """

    def __init__(self, dim: int, dropout: float) -> None:
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        self.norm = nn.LayerNorm(dim)

    def forward(self, tokens: torch.Tensor, update: torch.Tensor) -> torch.Tensor:
        """Return ``norm(tokens + update)``, B x L x E like both inputs."""
        return self.norm(tokens + self.dropout(update))


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

    def forward(self, tokens: torch.Tensor, position: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        """Apply the layer.

        Args:
            tokens: B x L x E.
            position: Embedding of positions, L x E.
            mask: See :meth:`Attention.forward`. Defaults to ``None``.

        Returns:
            B x L x E.
        """
        placed = tokens + position
        tokens = self.attention_norm(tokens, self.attention(placed, placed, tokens, mask))
        return self.feed_forward_norm(tokens, self.feed_forward(tokens))


class PositionEmbedding(nn.Module):
    """One learned vector for each column and each row; a position is its column's vector, then its row's.

    Args:
        feature_size: Height and width of the features (H, W).
        dim: Width of the embedding (E), even: the first half is the column's, the second the row's.

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
