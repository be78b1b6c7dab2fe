# SPDX-License-Identifier: Apache-2.0

"""Training loss of CRAD: how far the refined features are from the features themselves (CRAD, section 3.6)."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional


class CradLoss(nn.Module):
    """Mean squared error between refined and extracted features."""

    def forward(self, reconstruction: torch.Tensor, features: torch.Tensor) -> torch.Tensor:
        """Compute the loss.

        Args:
            reconstruction: Refined features x_hat, B x C x H x W.
            features: Extracted features x, B x C x H x W.

        Returns:
            A scalar.
        """
        return functional.mse_loss(reconstruction, features.to(reconstruction.dtype))
