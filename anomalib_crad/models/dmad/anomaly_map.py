# SPDX-License-Identifier: Apache-2.0

"""From patch scores to an anomaly map and an image score (DMAD, as released).

The image score is the largest patch score, before anything is smoothed. The map is the patch scores enlarged to the
image and smoothed by a Gaussian.

Axis letters: B batch, H x W patches.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

SIGMA = 4.0
#: A Gaussian is cut at this many standard deviations, as scipy's ``gaussian_filter`` does.
CUT_AT = 4.0


class AnomalyMapGenerator(nn.Module):
    """Anomaly map and image score of a batch.

    Convention:
        Scores are enlarged bilinearly without aligned corners. The Gaussian is cut at four standard deviations, and
        beyond the border lie the image's own pixels, mirrored with the edge pixel (``c b a | a b c``). That is
        ``scipy.ndimage.gaussian_filter`` with its defaults, for which PyTorch has no padding.

    A Gaussian is separable, and along one axis it is a matrix that can hold the mirrored border too: two matrix
    products smooth a map in any runtime, without padding.

    Args:
        image_size: Height and width of the map.
        sigma: Standard deviation of the Gaussian in pixels; 0 does not smooth. Defaults to ``4``.

    Raises:
        ValueError: If ``sigma`` is negative.

    Example:
        >>> anomaly_map, score = AnomalyMapGenerator((64, 64))(torch.rand(2, 8, 8))
        >>> anomaly_map.shape, score.shape
        (torch.Size([2, 64, 64]), torch.Size([2]))
    """

    def __init__(self, image_size: tuple[int, int], sigma: float = SIGMA) -> None:
        super().__init__()
        if not sigma >= 0:
            msg = f"sigma must be at least 0, got {sigma}."
            raise ValueError(msg)
        self.image_size = (image_size[0], image_size[1])
        self.sigma = sigma
        self.register_buffer("smooth_rows", smoothing_matrix(image_size[0], sigma), persistent=False)
        self.register_buffer("smooth_columns", smoothing_matrix(image_size[1], sigma), persistent=False)
        self.smooth_rows: torch.Tensor
        self.smooth_columns: torch.Tensor

    def forward(self, patch_scores: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Enlarge and smooth the scores of patches.

        Args:
            patch_scores: B x H x W, high is abnormal.

        Returns:
            The anomaly map, B x image size, and the image scores, ``(B,)``. Both have no bounds.
        """
        enlarged = functional.interpolate(
            patch_scores.unsqueeze(1), size=self.image_size, mode="bilinear", align_corners=False
        ).squeeze(1)
        smoothed = self.smooth_rows @ enlarged @ self.smooth_columns.transpose(0, 1)
        return smoothed, patch_scores.amax(dim=(1, 2))


def smoothing_matrix(length: int, sigma: float) -> torch.Tensor:
    """A Gaussian along one axis as a matrix, whose product with that axis smooths it.

    Args:
        length: Pixels along the axis.
        sigma: Standard deviation in pixels; 0 gives the identity.

    Returns:
        ``length`` x ``length``; each row sums to 1.
    """
    radius = int(CUT_AT * sigma + 0.5)
    offsets = torch.arange(-radius, radius + 1)
    weights = torch.exp(-0.5 * (offsets.double() / max(sigma, 1e-9)) ** 2)
    # Mirroring repeats every 2 * length pixels, however far the Gaussian reaches beyond a small image.
    positions = (torch.arange(length).unsqueeze(1) + offsets) % (2 * length)
    positions = torch.minimum(positions, 2 * length - 1 - positions)
    matrix = torch.zeros(length, length, dtype=torch.float64)
    matrix.scatter_add_(1, positions, (weights / weights.sum()).expand(length, -1))
    return matrix.float()
