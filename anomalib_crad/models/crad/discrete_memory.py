# SPDX-License-Identifier: Apache-2.0

"""Discrete memories, to compare continuous ones with (CRAD, comparison of memories).

A discrete memory stores as many numbers as a :class:`.memory.ContinuousGrid` of the same size, but has nothing between
its entries: a feature is compared with each of them and takes a weighted sum. How it is weighted is the kind of the
memory, in a file of its own. As a feature is its own query, such a memory has its entries and no network.

The paper gives kinds and sizes only; what is compared and how entries learn is our reading of it (docs/memory.md).

Axis letters: B batch, C channels, H x W positions, K entries.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import nn
from torch.nn import functional


class DiscreteEntries(nn.Module, ABC):
    """Learned entries and one way to weight them; usable alone.

    Args:
        out_dim: Numbers stored in each entry.
        num_entries: Entries (K).

    Raises:
        ValueError: If there is no entry.
    """

    def __init__(self, out_dim: int, num_entries: int) -> None:
        super().__init__()
        if num_entries < 1:
            msg = f"The number of entries of a discrete memory must be at least 1, got {num_entries}."
            raise ValueError(msg)
        self.out_dim = out_dim
        self.num_entries = num_entries
        # A grid's layout with its cells in one row: Xavier's fan counts, and with them the spread, are a grid's.
        self.values = nn.Parameter(torch.empty(1, out_dim, num_entries))
        nn.init.xavier_normal_(self.values)

    @abstractmethod
    def weights(self, queries: torch.Tensor) -> torch.Tensor:
        """Share of each entry in what is read.

        Args:
            queries: Features, shape ``(..., out_dim)``.

        Returns:
            Weights that sum to 1, shape ``(..., K)``.
        """

    def forward(self, queries: torch.Tensor) -> torch.Tensor:
        """Replace each query by the weighted sum of entries; shape ``(..., out_dim)`` in and out."""
        return functional.linear(self.weights(queries), self.values.squeeze(0))

    def loss(self, queries: torch.Tensor) -> torch.Tensor:
        """What the entries add to the training loss, a scalar; nothing unless a kind says otherwise."""
        return queries.new_zeros(())


class DiscreteMemory(nn.Module, ABC):
    """Features replaced by what discrete entries hold for them.

    Args:
        entries: The entries; their kind decides how they are read.
    """

    def __init__(self, entries: DiscreteEntries) -> None:
        super().__init__()
        self.entries = entries

    @abstractmethod
    def queries(self, features: torch.Tensor) -> torch.Tensor:
        """What the entries are compared with.

        Args:
            features: B x C x H x W.

        Returns:
            Queries, as wide as an entry on the last axis.
        """

    @abstractmethod
    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Read the memory; shape B x C x H x W in and out."""

    def loss(self, features: torch.Tensor) -> torch.Tensor:
        """What the memory adds to the training loss of these features, B x C x H x W; a scalar."""
        return self.entries.loss(self.queries(features))


class LocalDiscreteMemory(DiscreteMemory):
    """One normal feature per position, from entries of C numbers."""

    def queries(self, features: torch.Tensor) -> torch.Tensor:
        """The feature at each position: B x H x W x C."""
        return features.permute(0, 2, 3, 1)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Replace each feature by what the entries hold for it; shape B x C x H x W in and out."""
        return self.entries(self.queries(features)).permute(0, 3, 1, 2)


class GlobalDiscreteMemory(DiscreteMemory):
    """One normal feature map per image, from entries of C * H * W numbers."""

    def queries(self, features: torch.Tensor) -> torch.Tensor:
        """The whole feature map of each image: B x (C * H * W)."""
        return features.flatten(1)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Replace each feature map by what the entries hold for it; shape B x C x H x W in and out."""
        return self.entries(self.queries(features)).unflatten(-1, features.shape[1:])
