# SPDX-License-Identifier: Apache-2.0

"""What chooses an image's expert: the nearest of several centres of averaged features.

The authors' release is told the category of every image, of test images too. Here no category is known: an expert is a
group of images that look alike, found by k-means on the frozen features of the training images before the first step,
and an image goes to the expert whose centre is nearest. A product that training had not seen goes to the expert that
it looks most like.

Axis letters: B batch, C channels, H x W positions, X experts, N training images.
"""

from __future__ import annotations

import logging

import torch
from sklearn.cluster import KMeans
from torch import nn

logger = logging.getLogger(__name__)

_STARTS = 10  # k-means is repeated, and the best of its results is taken


class NearestCentre(nn.Module):
    """Choose the expert whose centre is nearest to an image's averaged features.

    Args:
        num_experts: Experts (X).
        in_channels: Channels of the features (C).

    Attributes:
        centres: X x C.
        has_images: Whether a training image belongs to an expert, shape ``(X,)``; the others are never chosen.

    Example:
        >>> experts = NearestCentre(num_experts=2, in_channels=3)
        >>> experts.fit(torch.tensor([[0.0, 0.0, 0.0], [0.1, 0.0, 0.0], [5.0, 5.0, 5.0]]), seed=0)
        tensor([0, 0, 1])
        >>> experts(torch.full((1, 3, 4, 4), 7.0))
        tensor([1])
    """

    centres: torch.Tensor
    has_images: torch.Tensor

    def __init__(self, num_experts: int, in_channels: int) -> None:
        super().__init__()
        self.register_buffer("centres", torch.zeros(num_experts, in_channels))
        self.register_buffer("has_images", torch.zeros(num_experts, dtype=torch.bool))

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Choose experts.

        Args:
            features: B x C x H x W.

        Returns:
            Number of each image's expert, shape ``(B,)``.
        """
        return self.nearest(averaged(features))

    def nearest(self, averages: torch.Tensor) -> torch.Tensor:
        """Choose experts for averaged features, B x C; shape ``(B,)``."""
        distances = (averages.unsqueeze(1) - self.centres).square().mean(dim=-1)  # B x X
        return distances.masked_fill(~self.has_images, float("inf")).argmin(dim=-1)

    def fit(self, averages: torch.Tensor, seed: int) -> torch.Tensor:
        """Find groups of images that look alike.

        Experts are numbered by the size of their group, the largest first. Where fewer groups than experts differ,
        the last experts have no images.

        Args:
            averages: Averaged features of the training images, N x C.
            seed: Fixes where k-means starts.

        Returns:
            Number of each image's expert, shape ``(N,)``.

        Raises:
            ValueError: If there are fewer images than experts.
        """
        num_experts = len(self.centres)
        if len(averages) < num_experts:
            msg = f"num_experts is {num_experts}, but there are {len(averages)} training images. Set it to fewer."
            raise ValueError(msg)
        points = averages.double().cpu()
        num_groups = min(num_experts, len(points.unique(dim=0)))
        if num_groups < num_experts:
            logger.warning(
                "num_experts is %d, but training images differ in %d ways only. The other experts get no image.",
                num_experts,
                num_groups,
            )
        groups = KMeans(num_groups, n_init=_STARTS, random_state=seed).fit(points.numpy())
        counts = torch.from_numpy(groups.labels_).bincount(minlength=num_groups)
        counts, order = counts.sort(descending=True, stable=True)
        logger.info("Training images of each expert: %s", ", ".join(map(str, counts.tolist())))
        self.centres[:num_groups] = torch.from_numpy(groups.cluster_centers_)[order].to(self.centres)
        self.has_images[:num_groups] = True
        return self.nearest(averages.to(self.centres))


def averaged(features: torch.Tensor) -> torch.Tensor:
    """Average features over positions: B x C x H x W to B x C."""
    return features.mean(dim=(2, 3))
