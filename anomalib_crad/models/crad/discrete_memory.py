# SPDX-License-Identifier: Apache-2.0

"""Discrete memories, to compare continuous ones with, and all kinds of memory by name (CRAD, comparison of memories).

A discrete memory stores as many numbers as a :class:`.memory.ContinuousGrid` of the same size, but has nothing between
its entries: a feature is compared with each entry and replaced by a weighted sum of them. The kinds differ in the
weights. A feature is its own query, so such a memory consists of its entries alone and has no network.

The paper names kinds and sizes only. What is compared and how entries learn is our reading of it, and docs/memory.md
explains it, and why no library does the vector quantisation.

Axis letters: B batch, C channels, H x W positions, K entries.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Literal, TypeAlias, get_args

import torch
from torch import nn
from torch.nn import functional

from anomalib_crad.models.crad.memory import FeatureMemory, GlobalMemory, LocalMemory

if TYPE_CHECKING:
    from collections.abc import Mapping

MemoryKind: TypeAlias = Literal["grid", "vector_quantization", "attention"]


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
        # The layout of a grid with its cells in one row: Xavier's fan counts, and with them the spread, are a grid's.
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

    def read(self, queries: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Read in training.

        Args:
            queries: Features, shape ``(..., out_dim)``.

        Returns:
            What :meth:`forward` returns, and the loss that the entries learn from beside the training loss, a scalar,
            or ``None`` for a kind that has none.
        """
        return self(queries), None


class VectorQuantizedEntries(DiscreteEntries):
    """Vector quantisation: each query reads its nearest entry ("VQ" in CRAD's comparison of memories).

    The entries are read as they are, so they learn from the training loss like the cells of a grid. That alone would
    not keep an entry near the features that it stands for, so they also learn from the codebook loss of van den Oord,
    Vinyals, Kavukcuoglu: "Neural Discrete Representation Learning", 2017. The straight-through gradients and the
    commitment loss of that paper train an encoder; here the features are frozen, and there is none.

    Args:
        out_dim: Numbers stored in each entry.
        num_entries: Entries (K).

    Example:
        >>> entries = VectorQuantizedEntries(out_dim=3, num_entries=16)
        >>> entries(torch.rand(10, 3)).shape
        torch.Size([10, 3])
    """

    def weights(self, queries: torch.Tensor) -> torch.Tensor:
        """One for the entry at the smallest Euclidean distance, else zero.

        Args:
            queries: Features, shape ``(..., out_dim)``.

        Returns:
            Weights, shape ``(..., K)``; no gradient flows through the choice.
        """
        # Mean squared distances, because sums over a whole feature map would not fit into half precision.
        scale = self.out_dim**-0.5
        entries = self.values.detach().squeeze(0) * scale
        # The query's own square is the same for all entries.
        distances = entries.square().sum(dim=0) - 2 * (queries * scale) @ entries  # (..., K)
        return functional.one_hot(distances.argmin(dim=-1), self.num_entries).to(queries.dtype)

    def read(self, queries: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Read in training.

        Args:
            queries: Features, shape ``(..., out_dim)``.

        Returns:
            The nearest entries, and the codebook loss: the mean squared difference of queries and their entries.
        """
        nearest = self(queries)
        return nearest, functional.mse_loss(nearest, queries.detach())


class AttentionEntries(DiscreteEntries):
    """Entries that are mixed by their similarity to the feature.

    This is scaled dot-product attention with entries that are both keys and values, as in memory-augmented autoencoders
    (Gong et al.: "Memorizing Normality to Detect Anomaly", 2019). Features and entries are normalised before they are
    compared: a backbone's features are so large that the softmax would otherwise choose one entry, which would make
    attention a kind of vector quantisation.

    Args:
        out_dim: Numbers stored in each entry.
        num_entries: Entries (K).

    Example:
        >>> entries = AttentionEntries(out_dim=3, num_entries=16)
        >>> entries(torch.rand(10, 3)).shape
        torch.Size([10, 3])
    """

    def weights(self, queries: torch.Tensor) -> torch.Tensor:
        """Softmax of cosine similarities times the square root of ``out_dim``.

        That is the dot product of vectors with a root mean square of 1, over the square root of their length.

        Args:
            queries: Features, shape ``(..., out_dim)``.

        Returns:
            Weights, shape ``(..., K)``.
        """
        keys = functional.normalize(self.values.squeeze(0), dim=0)
        similarities = functional.normalize(queries, dim=-1) @ keys  # (..., K)
        return (similarities * self.out_dim**0.5).softmax(dim=-1)


class DiscreteMemory(FeatureMemory):
    """Features replaced by what discrete entries hold for them.

    Args:
        entries: The entries; their kind decides how they are read.
    """

    def __init__(self, entries: DiscreteEntries) -> None:
        super().__init__()
        self.entries = entries

    @abstractmethod
    def queries(self, features: torch.Tensor) -> torch.Tensor:
        """Features B x C x H x W as queries, as wide as an entry on the last axis."""

    @abstractmethod
    def arrange(self, values: torch.Tensor, features: torch.Tensor) -> torch.Tensor:
        """What was read for :meth:`queries` as a feature map in the shape of ``features``, B x C x H x W."""

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Replace features by what the entries hold for them; shape B x C x H x W in and out."""
        return self.arrange(self.entries(self.queries(features)), features)

    def read(self, features: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Read in training.

        Args:
            features: B x C x H x W.

        Returns:
            What :meth:`forward` returns, and the loss of the entries (:meth:`DiscreteEntries.read`).
        """
        values, loss = self.entries.read(self.queries(features))
        return self.arrange(values, features), loss


class LocalDiscreteMemory(DiscreteMemory):
    """One normal feature for each position, from entries of C numbers."""

    def queries(self, features: torch.Tensor) -> torch.Tensor:
        """The feature at each position: B x H x W x C."""
        return features.permute(0, 2, 3, 1)

    def arrange(self, values: torch.Tensor, features: torch.Tensor) -> torch.Tensor:  # noqa: ARG002  # the base's
        """From B x H x W x C to B x C x H x W."""
        return values.permute(0, 3, 1, 2)


class GlobalDiscreteMemory(DiscreteMemory):
    """One normal feature map for each image, from entries of C * H * W numbers."""

    def queries(self, features: torch.Tensor) -> torch.Tensor:
        """The whole feature map of each image: B x (C * H * W)."""
        return features.flatten(1)

    def arrange(self, values: torch.Tensor, features: torch.Tensor) -> torch.Tensor:
        """From B x (C * H * W) to B x C x H x W."""
        return values.unflatten(-1, features.shape[1:])


_ENTRIES: Mapping[str, type[DiscreteEntries]] = {
    "vector_quantization": VectorQuantizedEntries,
    "attention": AttentionEntries,
}


def build_local_memory(
    kind: MemoryKind, in_channels: int, resolution: int, jitter_std: float, jitter_probability: float
) -> FeatureMemory:
    """Build a memory of R * R features.

    Args:
        kind: Kind of memory: the paper's ``grid``, or what it is compared with.
        in_channels: Channels of the features (C).
        resolution: R.
        jitter_std: See :class:`.memory.CoordinateJitter`; discrete memories have no coordinates to jitter.
        jitter_probability: See ``jitter_std``.

    Returns:
        The memory.

    Raises:
        ValueError: If the kind is unknown or the resolution less than 1.
    """
    if _is_grid(kind):
        return LocalMemory(in_channels, resolution, jitter_std, jitter_probability)
    return LocalDiscreteMemory(_ENTRIES[kind](in_channels, _num_entries(resolution)))


def build_global_memory(
    kind: MemoryKind, in_channels: int, feature_size: tuple[int, int], resolution: int
) -> FeatureMemory:
    """Build a memory of R * R whole feature maps.

    Args:
        kind: Kind of memory: the paper's ``grid``, or what it is compared with.
        in_channels: Channels of the features (C).
        feature_size: Height and width of the features.
        resolution: R.

    Returns:
        The memory.

    Raises:
        ValueError: If the kind is unknown or the resolution less than 1.
    """
    if _is_grid(kind):
        return GlobalMemory(in_channels, feature_size, resolution)
    width = in_channels * feature_size[0] * feature_size[1]
    return GlobalDiscreteMemory(_ENTRIES[kind](width, _num_entries(resolution)))


def _is_grid(kind: str) -> bool:
    if kind not in get_args(MemoryKind):
        msg = f"memory must be one of {', '.join(get_args(MemoryKind))}, got '{kind}'."
        raise ValueError(msg)
    return kind == "grid"


def _num_entries(resolution: int) -> int:
    if resolution < 1:
        msg = f"The resolution of a memory must be at least 1, got {resolution}."
        raise ValueError(msg)
    return resolution**2
