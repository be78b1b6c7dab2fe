# SPDX-License-Identifier: Apache-2.0

"""Map and image score: the distance, plus the weighted transport cost."""

from __future__ import annotations

import pytest
import torch

from anomalib_crad.models.hvq_trans.anomaly_map import AnomalyMapGenerator


def test_the_weighted_transport_cost_is_added_to_the_distance() -> None:
    features, reconstruction = torch.randn(2, 5, 4, 4), torch.randn(2, 5, 4, 4)
    transport = torch.rand(2, 1, 4, 4)
    anomaly_map, _ = AnomalyMapGenerator((4, 4), transport_weight=3.0)(features, reconstruction, transport)
    distance = (features - reconstruction).square().sum(dim=1, keepdim=True).sqrt()
    torch.testing.assert_close(anomaly_map, distance + 3 * transport)


@pytest.mark.parametrize("transport", [None, torch.rand(2, 1, 4, 4)])
def test_transport_can_be_left_out(transport: torch.Tensor | None) -> None:
    features, reconstruction = torch.randn(2, 5, 4, 4), torch.randn(2, 5, 4, 4)
    weight = 80.0 if transport is None else 0.0
    anomaly_map, _ = AnomalyMapGenerator((4, 4), transport_weight=weight)(features, reconstruction, transport)
    distance = (features - reconstruction).square().sum(dim=1, keepdim=True).sqrt()
    torch.testing.assert_close(anomaly_map, distance)


def test_the_score_is_the_largest_mean_of_a_window() -> None:
    transport = torch.zeros(1, 1, 32, 32)
    transport[..., 4:20, 8:24] = 1.0
    features = torch.zeros(1, 3, 32, 32)
    _, score = AnomalyMapGenerator((32, 32), transport_weight=2.0)(features, features, transport)
    torch.testing.assert_close(score, torch.tensor([2.0]))


def test_the_map_has_the_size_of_the_image() -> None:
    features = torch.randn(1, 3, 4, 6)
    anomaly_map, score = AnomalyMapGenerator((64, 96))(features, features, torch.rand(1, 1, 4, 6))
    assert anomaly_map.shape == (1, 1, 64, 96)
    assert score.shape == (1,)


@pytest.mark.parametrize("weight", [-1.0, float("nan")])
def test_a_weight_below_zero_is_an_error(weight: float) -> None:
    with pytest.raises(ValueError, match="transport_weight must be at least 0, got"):
        AnomalyMapGenerator((4, 4), transport_weight=weight)


def test_a_window_of_no_size_is_an_error() -> None:
    with pytest.raises(ValueError, match="score_kernel must be at least 1, got 0"):
        AnomalyMapGenerator((4, 4), score_kernel=0)
