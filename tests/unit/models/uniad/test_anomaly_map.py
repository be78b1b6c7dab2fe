# SPDX-License-Identifier: Apache-2.0

"""Map and score against plain interpolation and pooling."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from anomalib_crad.models.uniad.anomaly_map import AnomalyMapGenerator


def test_map_is_not_smoothed_and_score_is_plain_pooling() -> None:
    torch.manual_seed(0)
    features, reconstruction = torch.randn(2, 5, 3, 4), torch.randn(2, 5, 3, 4)
    distance = (reconstruction - features).square().sum(dim=1, keepdim=True).sqrt()
    expected = functional.interpolate(distance, scale_factor=16, mode="bilinear", align_corners=True)

    anomaly_map, score = AnomalyMapGenerator((48, 64))(features, reconstruction)

    torch.testing.assert_close(anomaly_map, expected)
    torch.testing.assert_close(score, functional.avg_pool2d(expected, 16, stride=1).flatten(1).amax(dim=1))


def test_score_kernel_changes_the_score() -> None:
    features, reconstruction = torch.randn(2, 5, 3, 4), torch.randn(2, 5, 3, 4)
    scores = [AnomalyMapGenerator((48, 64), kernel)(features, reconstruction)[1] for kernel in (1, 16)]
    assert (scores[0] > scores[1]).all()


def test_score_kernel_is_checked() -> None:
    with pytest.raises(ValueError, match="score_kernel must be at least 1, got 0"):
        AnomalyMapGenerator((32, 32), score_kernel=0)
