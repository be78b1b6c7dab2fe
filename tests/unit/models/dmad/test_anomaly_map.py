# SPDX-License-Identifier: Apache-2.0

"""Map against scipy's Gaussian."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter
from torch.nn import functional

from anomalib_crad.models.dmad.anomaly_map import AnomalyMapGenerator, smoothing_matrix


@pytest.mark.parametrize(("image_size", "sigma"), [((64, 48), 4), ((64, 48), 1.5), ((12, 40), 4), ((3, 5), 6)])
def test_the_map_is_scipys_gaussian_of_the_enlarged_scores(image_size: tuple[int, int], sigma: float) -> None:
    """Also where the Gaussian reaches over the whole image."""
    scores = torch.randn(2, 8, 6)
    enlarged = functional.interpolate(scores[:, None], size=image_size, mode="bilinear", align_corners=False)
    expected = np.stack([gaussian_filter(values[0].double().numpy(), sigma) for values in enlarged])

    anomaly_map, image_score = AnomalyMapGenerator(image_size, sigma)(scores)

    np.testing.assert_allclose(anomaly_map.numpy(), expected, atol=1e-5)
    torch.testing.assert_close(image_score, scores.flatten(1).max(dim=1).values)


def test_without_sigma_nothing_is_smoothed() -> None:
    torch.testing.assert_close(smoothing_matrix(7, 0), torch.eye(7))


def test_the_image_score_is_one_hot_patch_that_the_map_smooths_away() -> None:
    scores = torch.zeros(1, 8, 8)
    scores[0, 4, 4] = 1
    anomaly_map, image_score = AnomalyMapGenerator((64, 64))(scores)
    assert image_score.item() == 1
    assert anomaly_map.max() < 0.7


def test_smoothing_is_no_part_of_a_checkpoint() -> None:
    assert not AnomalyMapGenerator((8, 8)).state_dict()


def test_sigma_is_checked() -> None:
    with pytest.raises(ValueError, match="sigma must be at least 0, got -1"):
        AnomalyMapGenerator((8, 8), sigma=-1)
