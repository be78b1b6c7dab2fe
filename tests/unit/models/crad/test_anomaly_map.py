# SPDX-License-Identifier: Apache-2.0

"""Map and score against plain pooling, and the authors' evaluation of recorded maps."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from torch.nn import functional

from anomalib_crad.metrics import auroc
from anomalib_crad.models.components.scoring import image_score, smooth
from anomalib_crad.models.crad.anomaly_map import SCORE_KERNEL, SMOOTHING_KERNEL, AnomalyMapGenerator

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping


def test_map_and_score_are_plain_pooling() -> None:
    torch.manual_seed(0)
    features, reconstruction = torch.randn(2, 5, 6, 8), torch.randn(2, 5, 6, 8)
    distance = (reconstruction - features).square().sum(dim=1, keepdim=True).sqrt()
    enlarged = functional.interpolate(distance, size=(48, 64), mode="bilinear", align_corners=True)
    expected = functional.avg_pool2d(enlarged, 21, stride=1, padding=10, count_include_pad=True)

    anomaly_map, score = AnomalyMapGenerator((48, 64))(features, reconstruction)

    torch.testing.assert_close(anomaly_map, expected)
    torch.testing.assert_close(score, functional.avg_pool2d(expected, 32, stride=1).flatten(1).amax(dim=1))


@pytest.mark.parametrize("kernel", [0, 20])
def test_even_smoothing_kernel_is_an_error(kernel: int) -> None:
    with pytest.raises(ValueError, match=f"smoothing_kernel must be odd.*got {kernel}"):
        AnomalyMapGenerator((32, 32), smoothing_kernel=kernel)


def test_score_kernel_is_checked() -> None:
    with pytest.raises(ValueError, match="score_kernel must be at least 1, got 0"):
        AnomalyMapGenerator((32, 32), score_kernel=0)


def test_recorded_evaluation(golden: Callable[[str], Mapping[str, np.ndarray]]) -> None:
    """Smoothing, image score and AUROC give the authors' numbers; only they flip a category below one half."""
    recorded = golden("crad_eval")
    maps = smooth(torch.from_numpy(recorded["preds"]).unsqueeze(1), SMOOTHING_KERNEL)
    scores = image_score(maps, SCORE_KERNEL).numpy()
    labels = np.asarray(recorded["masks"].reshape(len(maps), -1).any(axis=1))
    for category in np.unique(recorded["categories"]):
        chosen = np.flatnonzero(recorded["categories"] == category)
        image_level = auroc(scores[chosen], labels[chosen])
        pixel_level = auroc(maps.numpy()[chosen].ravel(), recorded["masks"][chosen].ravel() > 0)
        assert image_level is not None
        assert pixel_level is not None
        assert max(image_level, 1 - image_level) == pytest.approx(float(recorded[f"{category}_max_auc"]), abs=1e-9)
        assert pixel_level == pytest.approx(float(recorded[f"{category}_pixel_auc"]), abs=1e-6)
