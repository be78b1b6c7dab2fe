# SPDX-License-Identifier: Apache-2.0

"""Patches against a loop over positions."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from anomalib_crad.models.dmad.patches import PatchEmbedding, average_to


def test_a_patch_is_the_means_of_its_neighbourhood() -> None:
    stage = torch.rand(2, 4, 5, 6)
    padded = functional.pad(stage, (1, 1, 1, 1))
    patches = PatchEmbedding(dim=12)([stage]).unflatten(1, (5, 6))
    for row in range(5):
        for column in range(6):
            neighbourhood = padded[:, :, row : row + 3, column : column + 3].flatten(1)
            torch.testing.assert_close(patches[:, row, column], neighbourhood.unflatten(1, (12, 3)).mean(dim=2))


def test_stages_share_a_patch_evenly_and_in_order() -> None:
    stages = [torch.zeros(1, 4, 8, 8), torch.ones(1, 8, 4, 4)]
    patches = PatchEmbedding(dim=8)(stages).unflatten(1, (8, 8))[0, 3, 3]
    assert patches.tolist() == [0, 0, 0, 0, 1, 1, 1, 1]


def test_positions_are_those_of_the_finest_stage_wherever_it_stands() -> None:
    stages = [torch.rand(1, 8, 4, 4), torch.rand(1, 4, 8, 8)]
    assert PatchEmbedding(dim=8)(stages).shape == (1, 64, 8)


def test_a_stage_may_be_resized_before_or_after_it_is_averaged() -> None:
    """The release resizes whole neighbourhoods."""
    coarse = torch.rand(1, 8, 4, 4)
    unfolded = functional.unfold(coarse, 3, padding=1).unflatten(2, (4, 4))
    resized = functional.interpolate(unfolded, size=(8, 8), mode="bilinear", align_corners=False)
    expected = resized.flatten(2).transpose(1, 2).unflatten(2, (6, 12)).mean(dim=3)
    actual = PatchEmbedding(dim=6)([torch.zeros(1, 4, 8, 8), coarse])[..., 3:]
    torch.testing.assert_close(actual, expected.unflatten(2, (3, 2)).mean(dim=3))


@pytest.mark.parametrize("length", [1, 2, 3, 5, 12, 30])
def test_averages_are_those_of_adaptive_pooling(length: int) -> None:
    values = torch.rand(2, 3, 12)
    torch.testing.assert_close(average_to(values, length), functional.adaptive_avg_pool1d(values, length))


def test_a_larger_patch_sees_more() -> None:
    stage = torch.rand(1, 4, 8, 8)
    assert not torch.equal(PatchEmbedding(4, patch_size=1)([stage]), PatchEmbedding(4, patch_size=5)([stage]))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [((0, 3), "dim must be at least 1, got 0"), ((8, 2), "patch_size must be odd.*got 2"), ((8, -1), "got -1")],
)
def test_arguments_are_checked(arguments: tuple[int, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PatchEmbedding(*arguments)
