# SPDX-License-Identifier: Apache-2.0

"""Refinement: pass normal features, block abnormal ones (CRAD, section 3.5).

A reconstruction from memory loses detail, which raises the score of normal regions. Where reconstruction and features
agree, refinement uses the features themselves; where they disagree, it keeps the reconstruction. The similarity S
decides this at each position; a low S marks an anomaly.

Axis letters: B batch, C channels, H x W positions.
"""

from __future__ import annotations

import torch
from torch.nn import functional

from anomalib_crad.models.components.precision import at_least_single_precision

#: Share of the hard vote "close" and of the cosine similarity in S.
CLOSENESS_SHARE = 0.3
COSINE_SHARE = 0.7
#: A position is close where the mean squared difference over channels is at most this.
CLOSE_BELOW = 10.0


def similarity(reconstruction: torch.Tensor, features: torch.Tensor) -> torch.Tensor:
    """Similarity S of reconstruction and features at each position.

    The vote for closeness has no gradient; the cosine similarity has.

    Args:
        reconstruction: Raw reconstruction r, B x C x H x W.
        features: Features x, B x C x H x W.

    Returns:
        S, B x 1 x H x W, in [-0.7, 1].
    """
    with torch.no_grad():
        distance = (reconstruction - features).square().mean(dim=1, keepdim=True)
        close = (distance <= CLOSE_BELOW).to(features.dtype)
    cosine = functional.cosine_similarity(reconstruction, features, dim=1).unsqueeze(1)
    return CLOSENESS_SHARE * close + COSINE_SHARE * cosine


def refine(reconstruction: torch.Tensor, features: torch.Tensor) -> torch.Tensor:
    """Refined features: ``S * x + (1 - S) * r``.

    Args:
        reconstruction: Raw reconstruction r, B x C x H x W.
        features: Features x, B x C x H x W.

    Returns:
        Refined features x_hat, B x C x H x W, in at least single precision.
    """
    reconstruction, features = at_least_single_precision(reconstruction), at_least_single_precision(features)
    passed = similarity(reconstruction, features)
    return passed * features + (1 - passed) * reconstruction
