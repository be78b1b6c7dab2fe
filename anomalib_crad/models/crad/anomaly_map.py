# SPDX-License-Identifier: Apache-2.0

"""From features and their reconstruction to an anomaly map and an image score (CRAD, section 3.6).

The distance at each position is enlarged to the image and averaged over a 21 x 21 window; this is the pixel score. The
largest mean of pixel scores over a 32 x 32 window is the image score: a single high pixel is noise, a region of high
pixels is a defect. The authors chose these windows for 224 x 224 images.

Axis letters: B batch, C channels, H x W positions.
"""

from __future__ import annotations

import torch
from torch import nn

from anomalib_crad.models.components.scoring import enlarge, feature_distance, image_score, smooth

SMOOTHING_KERNEL = 21
SCORE_KERNEL = 32


class AnomalyMapGenerator(nn.Module):
    """Anomaly map and image score of a batch.

    Args:
        image_size: Height and width of the map.
        smoothing_kernel: Odd side of the window that smooths the map, in pixels. Defaults to ``21``.
        score_kernel: Side of the window whose largest mean is the image score, in pixels. Defaults to ``32``.

    Raises:
        ValueError: If ``smoothing_kernel`` is even or a kernel is smaller than 1.
    """

    def __init__(
        self,
        image_size: tuple[int, int],
        smoothing_kernel: int = SMOOTHING_KERNEL,
        score_kernel: int = SCORE_KERNEL,
    ) -> None:
        super().__init__()
        if smoothing_kernel < 1 or smoothing_kernel % 2 == 0:
            msg = f"smoothing_kernel must be odd, so that a pixel is its window's centre, got {smoothing_kernel}."
            raise ValueError(msg)
        if score_kernel < 1:
            msg = f"score_kernel must be at least 1, got {score_kernel}."
            raise ValueError(msg)
        self.image_size = (image_size[0], image_size[1])
        self.smoothing_kernel = smoothing_kernel
        self.score_kernel = score_kernel

    def forward(self, features: torch.Tensor, reconstruction: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Compare features with their reconstruction.

        Args:
            features: B x C x H x W.
            reconstruction: B x C x H x W.

        Returns:
            The smoothed anomaly map, B x 1 x image size, and the image scores, ``(B,)``. Both are distances: 0 is
            perfectly normal, there is no upper bound.
        """
        enlarged = enlarge(feature_distance(features, reconstruction), self.image_size)
        anomaly_map = smooth(enlarged, self.smoothing_kernel)
        return anomaly_map, image_score(anomaly_map, self.score_kernel)
