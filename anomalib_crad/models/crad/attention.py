# SPDX-License-Identifier: Apache-2.0

"""Attention: each feature is replaced by a mixture of all entries, weighted by their similarity (CRAD, comparison).

This is scaled dot-product attention with entries that are keys and values at once, as in memory-augmented autoencoders
(Gong et al.: "Memorizing Normality to Detect Anomaly", 2019). Feature and entry are normalised before they are
compared: features of a backbone are so large that without it the softmax would choose one entry, and attention would be
a kind of vector quantisation.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch.nn import functional

from anomalib_crad.models.crad.discrete_memory import DiscreteEntries

if TYPE_CHECKING:
    import torch


class Attention(DiscreteEntries):
    """Entries that are mixed by their similarity.

    Args:
        out_dim: Numbers stored in each entry.
        num_entries: Entries (K).

    Example:
        >>> entries = Attention(out_dim=3, num_entries=16)
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
