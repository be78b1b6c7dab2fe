# SPDX-License-Identifier: Apache-2.0

"""From features, their reconstruction and the transport cost to an anomaly map and an image score (HVQ-Trans).

The distance at each position plus the weighted transport cost, enlarged to the image, is the anomaly map; the largest
mean over a 16 x 16 window of it is the image score. The map is not smoothed. The authors' weight of 80 suits the
distances of EfficientNet-B4's features, which other backbones' may be far above or below.

Axis letters: B batch, C channels, H x W positions.
"""

from __future__ import annotations

import torch
from torch import nn

from anomalib_crad.models.components.scoring import enlarge, feature_distance, image_score

TRANSPORT_WEIGHT = 80.0
SCORE_KERNEL = 16


class AnomalyMapGenerator(nn.Module):
    """Anomaly map and image score of a batch.

    Args:
        image_size: Height and width of the map.
        transport_weight: What the transport cost is multiplied by; 0 leaves it out. Defaults to ``80.0``.
        score_kernel: Side of the window whose largest mean is the image score, in pixels. Defaults to ``16``.

    Raises:
        ValueError: If ``transport_weight`` is less than 0 or ``score_kernel`` less than 1.
    """

    def __init__(
        self,
        image_size: tuple[int, int],
        transport_weight: float = TRANSPORT_WEIGHT,
        score_kernel: int = SCORE_KERNEL,
    ) -> None:
        super().__init__()
        if not transport_weight >= 0:  # this rejects NaN, too
            msg = f"transport_weight must be at least 0, got {transport_weight}."
            raise ValueError(msg)
        if score_kernel < 1:
            msg = f"score_kernel must be at least 1, got {score_kernel}."
            raise ValueError(msg)
        self.image_size = (image_size[0], image_size[1])
        self.transport_weight = transport_weight
        self.score_kernel = score_kernel

    def forward(
        self,
        features: torch.Tensor,
        reconstruction: torch.Tensor,
        transport: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Compare features with their reconstruction.

        Args:
            features: B x C x H x W.
            reconstruction: B x C x H x W.
            transport: Transport cost, B x 1 x H x W, or ``None`` to leave it out. Defaults to ``None``.

        Returns:
            The anomaly map, B x 1 x image size, and the image scores, ``(B,)``. Both are distances: there is no upper
            bound.
        """
        distance, cost = self.terms(features, reconstruction, transport)
        anomaly_map = enlarge(distance + cost, self.image_size)
        return anomaly_map, image_score(anomaly_map, self.score_kernel)

    def terms(
        self, features: torch.Tensor, reconstruction: torch.Tensor, transport: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Compute the two terms of the map; arguments as in :meth:`forward`.

        Returns:
            Distance of features and reconstruction, and weighted transport cost, B x 1 x H x W each.
        """
        distance = feature_distance(features, reconstruction)
        cost = torch.zeros_like(distance) if transport is None else self.transport_weight * transport
        return distance, cost
