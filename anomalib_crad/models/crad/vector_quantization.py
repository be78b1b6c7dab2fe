# SPDX-License-Identifier: Apache-2.0

"""Vector quantisation: each feature is replaced by its nearest entry ("VQ" in CRAD's comparison of memories).

Entries are read as they are and so learn from the training loss like the cells of a grid. That alone would not keep an
entry near the features that it stands for, so they also learn from the codebook loss of van den Oord, Vinyals,
Kavukcuoglu: "Neural Discrete Representation Learning", 2017. Straight-through gradients and the commitment loss of that
paper train an encoder; here features are frozen, and there is none.

Why not a library: docs/memory.md.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch.nn import functional

from anomalib_crad.models.crad.discrete_memory import DiscreteEntries

if TYPE_CHECKING:
    import torch


class VectorQuantization(DiscreteEntries):
    """Entries of which the nearest is read.

    Args:
        out_dim: Numbers stored in each entry.
        num_entries: Entries (K).

    Example:
        >>> entries = VectorQuantization(out_dim=3, num_entries=16)
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
        # Mean squared distances rather than sums, which over a whole feature map would not fit into half precision.
        scale = self.out_dim**-0.5
        entries = self.values.detach().squeeze(0) * scale
        # The query's own square is the same for all entries.
        distances = entries.square().sum(dim=0) - 2 * (queries * scale) @ entries  # (..., K)
        return functional.one_hot(distances.argmin(dim=-1), self.num_entries).to(queries.dtype)

    def loss(self, queries: torch.Tensor) -> torch.Tensor:
        """Codebook loss: mean squared difference of queries and their nearest entries.

        Args:
            queries: Features, shape ``(..., out_dim)``.

        Returns:
            A scalar.
        """
        return functional.mse_loss(self(queries), queries.detach())
