# SPDX-License-Identifier: Apache-2.0

"""AUPRO against anomalib's own, against curves drawn by hand, and what it refuses."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from anomalib.metrics import AUPRO
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from anomalib_crad.metrics import aupro
from anomalib_crad.metrics.overlap import region_shares

MASK = np.array([[1, 0, 0, 0], [0, 1, 0, 1]], bool)  # two pixels that touch at a corner, and a single one


def make_case(seed: int, levels: int | None) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Draw defects of all sizes and maps that find some of them; with ``levels``, full of ties."""
    rng = np.random.default_rng(seed)
    masks = gaussian_filter(rng.normal(size=(6, 48, 40)), (0, 1, 1)) > 0.45
    masks[:2] = False
    maps = gaussian_filter(rng.normal(size=masks.shape) + 2 * masks * rng.random(masks.shape), (0, 1, 1))
    return (maps if levels is None else np.round(maps * levels) / levels).astype(np.float32), masks


def anomalibs(maps: NDArray[np.float32], masks: NDArray[np.bool_], fpr_limit: float) -> float:
    metric = AUPRO(fields=["anomaly_map", "gt_mask"], fpr_limit=fpr_limit)
    batch: Any = SimpleNamespace(anomaly_map=torch.from_numpy(maps), gt_mask=torch.from_numpy(masks))
    metric.update(batch)
    return float(metric.compute())


@pytest.mark.parametrize("fpr_limit", [0.05, 0.3, 1.0])
@pytest.mark.parametrize("levels", [None, 20, 1], ids=["no ties", "many ties", "mostly ties"])
@pytest.mark.parametrize("seed", [0, 1])
def test_it_is_that_of_anomalib(seed: int, levels: int | None, fpr_limit: float) -> None:
    maps, masks = make_case(seed, levels)
    assert aupro(list(maps), list(masks), fpr_limit) == pytest.approx(anomalibs(maps, masks, fpr_limit), abs=1e-5)


@pytest.mark.parametrize(
    ("pixels", "fpr_limit", "expected"),
    [
        # Overlap is 1/4 at no false positive, 3/4 from one of five on, 1 from two on.
        ([[9, 1, 1, 7], [4, 3, 1, 5]], 0.3, (0.2 * 1 / 4 + 0.1 * 3 / 4) / 0.3),
        ([[9, 1, 1, 7], [4, 3, 1, 5]], 1.0, 0.2 * 1 / 4 + 0.2 * 3 / 4 + 0.6),
        ([[9, 1, 1, 1], [1, 9, 1, 9]], 0.3, 1.0),
        ([[1, 9, 9, 9], [9, 1, 9, 1]], 0.3, 0.0),
        # One score for all: a straight line from (0, 0) to (1, 1).
        ([[1, 1, 1, 1], [1, 1, 1, 1]], 0.3, 0.15),
        # The single pixel is tied with one normal one: a slope from (0, 1/4) to (1/5, 3/4).
        ([[9, 1, 1, 5], [1, 3, 1, 5]], 0.3, (0.2 * 2 / 4 + 0.1 * 1) / 0.3),
        # The limit cuts that slope in half.
        ([[9, 1, 1, 5], [1, 3, 1, 5]], 0.1, (1 / 4 + 2 / 4) / 2),
    ],
)
def test_it_is_the_area_of_a_curve_drawn_by_hand(pixels: list[list[int]], fpr_limit: float, expected: float) -> None:
    assert aupro([np.array(pixels, np.float32)], [MASK], fpr_limit) == pytest.approx(expected, abs=1e-12)


def test_a_large_region_weighs_as_much_as_a_small_one() -> None:
    small = np.zeros((5, 5), bool)
    small[2, 2] = True
    large = np.zeros((9, 7), bool)
    large[2:6, 1:6] = True
    shares = region_shares([small, np.zeros((3, 3), bool), large])
    assert shares.tolist() == pytest.approx([1 / 2] + [1 / 40] * 20)


@pytest.mark.parametrize("fpr_limit", [0.0, 1.2])
def test_a_limit_out_of_range_is_an_error(fpr_limit: float) -> None:
    with pytest.raises(ValueError, match=f"above 0 and be at most 1, got {fpr_limit}"):
        aupro([MASK.astype(float)], [MASK], fpr_limit)


def test_without_a_region_there_is_no_overlap() -> None:
    with pytest.raises(ValueError, match="0 anomalous and 8 normal"):
        aupro([MASK.astype(float)], [np.zeros_like(MASK)])
