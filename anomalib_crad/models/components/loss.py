# SPDX-License-Identifier: Apache-2.0

"""Training loss of models that rebuild features: how far the reconstruction is from the features."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional


class FeatureLoss(nn.Module):
    """Mean squared error between reconstruction and features."""

    def forward(self, reconstruction: torch.Tensor, features: torch.Tensor) -> torch.Tensor:
        """Compute the loss.

        Args:
            reconstruction: B x C x H x W.
            features: Extracted features, B x C x H x W.

        Returns:
            A scalar.
        """
        return functional.mse_loss(reconstruction, features.to(reconstruction.dtype))
