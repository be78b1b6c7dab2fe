# SPDX-License-Identifier: Apache-2.0

"""Squashed scores: the numbers that are promised, order in float32, and the way back."""

import pytest
import torch

from anomalib_crad.post_processing.thresholds import squash, unsquash


def pair(threshold: float, scale: float, dtype: torch.dtype = torch.float32) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.tensor(threshold, dtype=dtype), torch.tensor(scale, dtype=dtype)


def test_documented_values() -> None:
    squashed = squash(torch.tensor([2.0, 3.0, 4.0, 5.0, 13.0]), *pair(4, 1))
    assert squashed.tolist() == pytest.approx([1 / 6, 0.25, 0.5, 0.75, 0.95])


def test_twice_the_threshold_is_well_above_half() -> None:
    """The scale of scores that are never negative is at most the threshold."""
    assert squash(torch.tensor(2.6), *pair(1.3, 1.3)) == pytest.approx(0.75)
    assert squash(torch.tensor(2.6), *pair(1.3, 0.4)) > 0.85


@pytest.mark.parametrize(("threshold", "scale"), [(0.3, 0.05), (4000.0, 900.0), (-2.5, 0.1), (1e-6, 3e-7), (0.0, 1.0)])
def test_order_is_never_turned_round_and_rarely_lost(threshold: float, scale: float) -> None:
    """Scores up to 50 scales around the threshold, plus neighbouring floats around the threshold itself."""
    spread = threshold + scale * torch.linspace(-50, 50, 20_001, dtype=torch.float64)
    raw = spread.float().unique()
    squashed = squash(raw, *pair(threshold, scale))
    assert (squashed.diff() > 0).all(), "scores of a realistic range must all stay apart"
    assert squashed.min() > 0
    assert squashed.max() < 1

    steps = torch.tensor([threshold])
    for _ in range(1000):
        steps = torch.cat([steps, torch.nextafter(steps[-1:], torch.tensor([torch.inf]))])
    near = squash(steps, *pair(threshold, scale))
    assert (near.diff() >= 0).all()
    assert torch.equal(near[0], torch.tensor(0.5))
    assert (near[1:] > 0.5).all(), "above the threshold must be above a half, however little"


def test_extremes_stay_inside_and_nan_stays_nan() -> None:
    squashed = squash(torch.tensor([-torch.inf, -3e38, 3e38, torch.inf, torch.nan]), *pair(1, 0.5))
    assert squashed[:4].tolist() == pytest.approx([0, 0, 1, 1])
    assert squashed[4].isnan()


def test_small_scores_keep_their_digits() -> None:
    """Two scores far below the threshold differ by more than a difference from 1/2 could hold."""
    low, high = squash(torch.tensor([-1e9, -1.000001e9]), *pair(0, 1))
    assert high < low


def test_it_can_be_undone() -> None:
    raw = torch.linspace(-20, 30, 501, dtype=torch.float64)
    numbers = pair(1.5, 0.7, torch.float64)
    torch.testing.assert_close(unsquash(squash(raw, *numbers), *numbers), raw)
    assert unsquash(torch.tensor([0.0, 0.5, 1.0]), *pair(2, 3)).tolist() == [-torch.inf, 2, torch.inf]


def test_without_threshold_scores_stay_raw() -> None:
    raw = torch.tensor([-4.0, 17.0])
    nothing = torch.tensor(torch.nan), torch.tensor(1.0)
    assert squash(raw, *nothing).tolist() == [-4, 17]
    assert unsquash(raw, *nothing).tolist() == [-4, 17]


def test_each_image_may_have_its_own_threshold() -> None:
    maps = torch.tensor([[[1.0, 2.0]], [[1.0, 2.0]]])
    thresholds, scales = torch.tensor([1.0, 2.0]).reshape(-1, 1, 1), torch.ones(2, 1, 1)
    assert squash(maps, thresholds, scales).tolist() == [[[0.5, 0.75]], [[0.25, 0.5]]]
