# SPDX-License-Identifier: Apache-2.0

"""Distances and window means against plain formulas."""

from __future__ import annotations

import torch
from torch.nn import functional

from anomalib_crad.models.components.scoring import enlarge, feature_distance, image_score, smooth


def test_distance_is_the_norm_over_channels() -> None:
    features, reconstruction = torch.randn(2, 5, 3, 4), torch.randn(2, 5, 3, 4)
    expected = (features - reconstruction).square().sum(dim=1, keepdim=True).sqrt()
    torch.testing.assert_close(feature_distance(features, reconstruction), expected)


def test_corners_stay_corners_when_a_map_is_enlarged() -> None:
    distance = torch.rand(1, 1, 3, 4)
    enlarged = enlarge(distance, (48, 64))
    assert enlarged.shape == (1, 1, 48, 64)
    torch.testing.assert_close(enlarged[..., [0, 0, -1, -1], [0, -1, 0, -1]], distance[..., [0, 0, 2, 2], [0, 3, 0, 3]])


def test_smoothing_counts_zeros_outside_the_image() -> None:
    smoothed = smooth(torch.ones(1, 1, 6, 8), kernel=3)
    assert smoothed.shape == (1, 1, 6, 8)
    torch.testing.assert_close(smoothed[0, 0, 0, :2], torch.tensor([4 / 9, 6 / 9]))
    torch.testing.assert_close(smoothed[0, 0, 2, 2], torch.tensor(1.0))


def test_score_is_the_largest_mean_of_a_window_inside_the_map() -> None:
    anomaly_map = torch.rand(3, 1, 9, 7)
    expected = functional.avg_pool2d(anomaly_map, 4, stride=1).flatten(1).amax(dim=1)
    torch.testing.assert_close(image_score(anomaly_map, 4), expected)


def test_window_is_cut_where_a_map_is_smaller() -> None:
    anomaly_map = torch.rand(3, 1, 16, 40)
    rows = anomaly_map.mean(dim=2, keepdim=True)
    expected = functional.avg_pool2d(rows, (1, 32), 1).amax(dim=(1, 2, 3))
    torch.testing.assert_close(image_score(anomaly_map, 32), expected)
