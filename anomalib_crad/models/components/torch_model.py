# SPDX-License-Identifier: Apache-2.0

"""Backbone, head and anomaly map in a row: the PyTorch model that is trained and exported.

Axis letters: B batch, C channels, H x W positions.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, TypeAlias

import torch
from anomalib.data import InferenceBatch
from torch import nn
from torch.nn import functional

from anomalib_crad.export.checks import fingerprint

if TYPE_CHECKING:
    from collections.abc import Mapping

    from anomalib_crad.models.components.features import MultiScaleFeatures

#: One feature map, or one for each group of layers that a model compares.
Features: TypeAlias = "torch.Tensor | list[torch.Tensor]"


class TrainingOutput(NamedTuple):
    """What a model computes from a batch of training images.

    Attributes:
        features: What the head sees: B x C x H x W, or a list of such tensors.
        reconstruction: What the head rebuilds, in the shape of ``features``; ``None`` for a head that rebuilds nothing.
        losses: Terms of the training loss by name, scalars.
    """

    features: Features
    reconstruction: Features | None
    losses: Mapping[str, torch.Tensor]

    @property
    def loss(self) -> torch.Tensor:
        """The training loss: the sum of its terms."""
        first, *others = self.losses.values()
        return sum(others, start=first)


def reconstruction_loss(reconstruction: Features, features: Features) -> torch.Tensor:
    """Mean squared error between reconstruction and features.

    Args:
        reconstruction: B x C x H x W, or a list of such tensors.
        features: In the shape of ``reconstruction``.

    Returns:
        A scalar; of lists, the sum of each pair's mean squared error.
    """
    if isinstance(reconstruction, torch.Tensor) and isinstance(features, torch.Tensor):
        return functional.mse_loss(reconstruction, features)
    errors = [functional.mse_loss(*pair) for pair in zip(reconstruction, features, strict=True)]
    return torch.stack(errors).sum()


class ReconstructionModel(nn.Module):
    """Images to anomaly maps and image scores.

    A model whose head adds terms to the loss, or whose map needs more than features and their reconstruction, overrides
    :meth:`training_output` and :meth:`prediction`.

    Args:
        feature_extractor: Frozen features of an image.
        reconstruction: The trainable head: features B x C x H x W to their reconstruction, of the same shape.
        anomaly_map_generator: Compares features and reconstruction.

    Attributes:
        initial_fingerprint: :func:`.export.checks.fingerprint` of the head as it was handed over; exports are refused
            while the head still has it.
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
        self.initial_fingerprint: str | None = fingerprint(reconstruction)

    def forward(self, images: torch.Tensor) -> TrainingOutput | InferenceBatch:
        """Run the model.

        Args:
            images: Normalised images, B x 3 x height x width.

        Returns:
            :meth:`training_output` in training mode, :meth:`prediction` otherwise.
        """
        features = self.feature_extractor(images)
        return self.training_output(features) if self.training else self.prediction(features)

    def training_output(self, features: torch.Tensor) -> TrainingOutput:
        """Compute what training needs, from features on.

        Args:
            features: B x C x H x W, as the feature extractor gives them.

        Returns:
            Features, reconstruction, and the loss by its terms.
        """
        reconstruction = self.reconstruction(features)
        losses = {"reconstruction": reconstruction_loss(reconstruction, features)}
        return TrainingOutput(features, reconstruction, losses)

    def prediction(self, features: torch.Tensor) -> InferenceBatch:
        """Score images, from features on.

        Args:
            features: B x C x H x W, as the feature extractor gives them.

        Returns:
            ``pred_score`` of shape ``(B,)`` and ``anomaly_map`` of B x 1 x height x width.
        """
        anomaly_map, pred_score = self.anomaly_map_generator(features, self.reconstruction(features))
        return InferenceBatch(pred_score=pred_score, anomaly_map=anomaly_map)
