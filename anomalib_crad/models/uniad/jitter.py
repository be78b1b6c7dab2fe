# SPDX-License-Identifier: Apache-2.0

"""Feature jitter: noise on features in training, to be removed by the reconstruction (UniAD, section 3.4).

What is rebuilt is the clean feature, so the network learns to lead a disturbed feature back to the normal ones, which
is what it is to do with an anomaly.

Axis letters: B batch, L tokens, C channels.
"""

from __future__ import annotations

import torch
from torch import nn

JITTER_SCALE = 20.0
JITTER_PROBABILITY = 1.0


class FeatureJitter(nn.Module):
    """Gaussian noise on tokens while training, as large as the token's norm calls for.

    The standard deviation for token f is ``scale * ||f|| / C``. All tokens of a batch are disturbed, or none: one draw
    decides for the batch.

    Args:
        scale: See above. Defaults to ``20.0``.
        probability: Chance that a batch is disturbed. Defaults to ``1.0``.

    Raises:
        ValueError: If ``scale`` is negative or ``probability`` is not one.
    """

    def __init__(self, scale: float = JITTER_SCALE, probability: float = JITTER_PROBABILITY) -> None:
        super().__init__()
        if not scale >= 0 or not 0 <= probability <= 1:
            msg = f"jitter_scale must be >= 0 and jitter_probability in [0, 1], got {scale} and {probability}."
            raise ValueError(msg)
        self.scale = scale
        self.probability = probability

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Return tokens B x L x C, disturbed in training mode only."""
        if not self.training or torch.rand(1).item() >= self.probability:
            return tokens
        std = self.scale / tokens.shape[-1] * torch.linalg.vector_norm(tokens, dim=-1, keepdim=True)  # B x L x 1
        return tokens + std * torch.randn_like(tokens)
