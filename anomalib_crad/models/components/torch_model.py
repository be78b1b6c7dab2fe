# SPDX-License-Identifier: Apache-2.0

"""Backbone, head and anomaly map in a row: the PyTorch model that anomalib exports.

Axis letters: B batch, C channels, H x W positions.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from anomalib.data import InferenceBatch
from torch import nn

if TYPE_CHECKING:
    from anomalib_crad.models.components.features import MultiScaleFeatures


class ReconstructionModel(nn.Module):
    """Images to anomaly maps and image scores.

    Args:
        feature_extractor: Frozen features of an image.
        reconstruction: The trainable head: features B x C x H x W to their reconstruction, of the same shape.
        anomaly_map_generator: Compares features and reconstruction.
    """

    def __init__(
        self,
        feature_extractor: MultiScaleFeatures,
        reconstruction: nn.Module,
        anomaly_map_generator: nn.Module,
    ) -> None:
        super().__init__()
        self.feature_extractor = feature_extractor
        self.reconstruction = reconstruction
        self.anomaly_map_generator = anomaly_map_generator

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor] | InferenceBatch:
        """Run the model.

        Args:
            images: Normalised images, B x 3 x height x width.

        Returns:
            In training mode ``(reconstruction, features)``, what the loss compares, both B x C x H x W. Otherwise an
            ``InferenceBatch`` with ``pred_score`` of shape ``(B,)`` and ``anomaly_map`` of B x 1 x height x width.
        """
        features = self.feature_extractor(images)
        reconstruction = self.reconstruction(features)
        if self.training:
            return reconstruction, features
        anomaly_map, pred_score = self.anomaly_map_generator(features, reconstruction)
        return InferenceBatch(pred_score=pred_score, anomaly_map=anomaly_map)
