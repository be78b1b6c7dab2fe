# SPDX-License-Identifier: Apache-2.0

"""From features and their reconstruction to an anomaly map and an image score (UniAD, section 4.1).

The distance at each position, enlarged to the image, is the anomaly map. The largest mean over a 16 x 16 window of it
is the image score. Unlike CRAD's, the map is not smoothed.

Axis letters: B batch, C channels, H x W positions.
"""

from __future__ import annotations

import torch
from torch import nn

from anomalib_crad.models.components.scoring import enlarge, feature_distance, image_score

SCORE_KERNEL = 16


class AnomalyMapGenerator(nn.Module):
    """Anomaly map and image score of a batch.

    Args:
        image_size: Height and width of the map.
        score_kernel: Side of the window whose largest mean is the image score, in pixels. Defaults to ``16``.

    Raises:
        ValueError: If ``score_kernel`` is smaller than 1.
    """

    def __init__(self, image_size: tuple[int, int], score_kernel: int = SCORE_KERNEL) -> None:
        super().__init__()
        if score_kernel < 1:
            msg = f"score_kernel must be at least 1, got {score_kernel}."
            raise ValueError(msg)
        self.image_size = (image_size[0], image_size[1])
        self.score_kernel = score_kernel

    def forward(self, features: torch.Tensor, reconstruction: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Compare features with their reconstruction.

        Args:
            features: B x C x H x W.
            reconstruction: B x C x H x W.

        Returns:
            The anomaly map, B x 1 x image size, and the image scores, ``(B,)``. Both are distances: 0 is perfectly
            normal, there is no upper bound.
        """
        anomaly_map = enlarge(feature_distance(features, reconstruction), self.image_size)
        return anomaly_map, image_score(anomaly_map, self.score_kernel)
