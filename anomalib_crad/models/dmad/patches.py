# SPDX-License-Identifier: Apache-2.0

"""Patch features: one vector for each position and its neighbours, over several stages of a backbone.

DMAD takes over the patches of PatchCore's authors (Roth et al., "Towards Total Recall in Industrial Anomaly
Detection", CVPR 2022, section 3.1). anomalib's Patchcore averages each neighbourhood and keeps its channels; here a
neighbourhood is laid out as one long vector, and the mean is taken over consecutive numbers of it.

Axis letters: B batch, C channels of a stage, H x W positions of the finest stage, N = H * W patches, D numbers a patch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.nn import functional

if TYPE_CHECKING:
    from collections.abc import Sequence

PATCH_DIM = 1536
PATCH_SIZE = 3


class PatchEmbedding(nn.Module):
    """Patches at the positions of the finest stage, each from all stages. It has no parameters.

    Convention:
        A neighbourhood is ordered by channel, then by row, then by column; beyond the border lie zeros. Every stage is
        averaged to D numbers, coarser ones are resized to the positions of the finest (bilinearly, corners not
        aligned), and all stages one after the other are averaged to D numbers again. Where a length is no multiple of
        D, windows overlap as those of adaptive average pooling do.

    Averages over channels and interpolation over positions do not depend on each other, so a stage is averaged before
    it is resized: D numbers a position are interpolated instead of C * ``patch_size`` squared.

    Args:
        dim: Numbers that describe a patch (D). Defaults to ``1536``.
        patch_size: Odd side of a neighbourhood, in positions of the stage. Defaults to ``3``.

    Raises:
        ValueError: If ``dim`` is smaller than 1 or ``patch_size`` is even.

    Example:
        >>> embedding = PatchEmbedding(dim=24)
        >>> embedding([torch.rand(2, 8, 8, 8), torch.rand(2, 16, 4, 4)]).shape
        torch.Size([2, 64, 24])
    """

    def __init__(self, dim: int = PATCH_DIM, patch_size: int = PATCH_SIZE) -> None:
        super().__init__()
        if dim < 1:
            msg = f"dim must be at least 1, got {dim}."
            raise ValueError(msg)
        if patch_size < 1 or patch_size % 2 == 0:
            msg = f"patch_size must be odd, so that a position is its patch's centre, got {patch_size}."
            raise ValueError(msg)
        self.dim = dim
        self.patch_size = patch_size

    def forward(self, stages: Sequence[torch.Tensor]) -> torch.Tensor:
        """Describe patches.

        Args:
            stages: Feature maps of a batch, each B x C x height x width.

        Returns:
            Patches row by row, B x N x D.
        """
        height, width = max((stage.shape[-2:] for stage in stages), key=lambda shape: shape[0] * shape[1])
        averaged = [_resize(self._neighbourhoods(stage), (height, width)) for stage in stages]
        stacked = torch.cat(averaged, dim=1)  # B x (stages * D) x H x W
        return average_to(stacked.flatten(2).transpose(1, 2), self.dim)  # B x N x D

    def _neighbourhoods(self, stage: torch.Tensor) -> torch.Tensor:
        """Average the neighbourhood of each position: B x C x height x width to B x D x height x width."""
        unfolded = functional.unfold(stage, self.patch_size, padding=self.patch_size // 2)
        averaged = average_to(unfolded.transpose(1, 2), self.dim)
        return averaged.transpose(1, 2).unflatten(2, stage.shape[-2:])


def average_to(values: torch.Tensor, length: int) -> torch.Tensor:
    """Average consecutive numbers of the last axis, as adaptive average pooling does.

    Args:
        values: Shape ``(..., L)``.
        length: Numbers to be left.

    Returns:
        Means, shape ``(..., length)``. Number i is the mean of ``[floor(i * L / length), ceil((i + 1) * L / length))``.
    """
    whole, rest = divmod(values.shape[-1], length)
    if rest == 0:  # windows of one length side by side: a mean that every runtime has
        return values.unflatten(-1, (length, whole)).mean(dim=-1)
    return functional.adaptive_avg_pool1d(values, length)


def _resize(features: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    if tuple(features.shape[-2:]) == size:
        return features
    return functional.interpolate(features, size=size, mode="bilinear", align_corners=False)
