# SPDX-License-Identifier: Apache-2.0

"""Which expert an image goes to: groups of images that look alike, without any label."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch

from anomalib_crad.models.hvq_trans.experts import NearestCentre, averaged

if TYPE_CHECKING:
    from collections.abc import Sequence


def images_of(groups: Sequence[float], counts: Sequence[int], spread: float = 0.1) -> torch.Tensor:
    """Averaged features of 4 channels around the given values."""
    generator = torch.Generator().manual_seed(0)
    centres = torch.tensor(groups).repeat_interleave(torch.tensor(counts))
    return centres.unsqueeze(1) + spread * torch.randn(len(centres), 4, generator=generator)


def test_images_that_look_alike_share_an_expert_and_the_largest_group_comes_first() -> None:
    experts = NearestCentre(num_experts=3, in_channels=4)
    found = experts.fit(images_of([0.0, 5.0, 9.0], [10, 30, 20]), seed=0)
    assert found.tolist() == [2] * 10 + [0] * 30 + [1] * 20
    torch.testing.assert_close(experts.centres[0], torch.full((4,), 5.0), rtol=0, atol=0.1)


def test_features_are_averaged_over_positions() -> None:
    experts = NearestCentre(num_experts=2, in_channels=4)
    experts.fit(images_of([0.0, 8.0], [5, 4]), seed=0)
    features = torch.zeros(2, 4, 3, 5)
    features[1, :, :, :4] = 10.0  # 8 in the mean
    assert experts(features).tolist() == [0, 1]
    torch.testing.assert_close(averaged(features)[1], torch.full((4,), 8.0))


def test_a_product_that_training_had_not_goes_to_the_expert_that_it_looks_most_like() -> None:
    experts = NearestCentre(num_experts=2, in_channels=4)
    experts.fit(images_of([0.0, 8.0], [5, 4]), seed=0)
    assert experts(torch.full((1, 4, 2, 2), 1000.0)).tolist() == [1]


@pytest.mark.parametrize("seed", [0, 1])
def test_the_same_seed_gives_the_same_experts(seed: int) -> None:
    averages = images_of([0.0], [40], spread=1.0)
    one, other = NearestCentre(5, 4), NearestCentre(5, 4)
    one.fit(averages, seed)
    torch.rand(seed + 1)
    other.fit(averages, seed)
    assert torch.equal(one.centres, other.centres)


def test_experts_beyond_the_groups_get_no_image(caplog: pytest.LogCaptureFixture) -> None:
    experts = NearestCentre(num_experts=4, in_channels=4)
    found = experts.fit(images_of([3.0, 7.0], [3, 2], spread=0.0), seed=0)
    assert found.tolist() == [0, 0, 0, 1, 1]
    assert experts.has_images.tolist() == [True, True, False, False]
    assert "num_experts is 4, but training images differ in 2 ways only" in caplog.text
    # The centre of an expert without images is zero, which is nearest, and still it is not chosen.
    assert experts(torch.zeros(1, 4, 2, 2)).tolist() == [0]


def test_fewer_images_than_experts_are_an_error() -> None:
    with pytest.raises(ValueError, match="num_experts is 4, but there are 3 training images"):
        NearestCentre(4, 4).fit(images_of([1.0], [3]), seed=0)


def test_before_they_are_found_all_images_go_to_the_first() -> None:
    assert NearestCentre(3, 4)(torch.rand(2, 4, 2, 2)).tolist() == [0, 0]
