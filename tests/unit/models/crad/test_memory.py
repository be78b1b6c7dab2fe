# SPDX-License-Identifier: Apache-2.0

"""A continuous grid reads what ``grid_sample`` reads, and the memories keep shapes and jitter as documented."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from anomalib_crad.models.crad.memory import ContinuousGrid, CoordinateJitter, GlobalMemory, LocalMemory


def test_grid_reads_as_grid_sample_does_forward_and_backward() -> None:
    torch.manual_seed(0)
    grid = ContinuousGrid(out_dim=5, resolution=4).double()
    # Beyond the edges too, where zeros lie.
    coordinates = (torch.rand(3, 6, 7, 2, dtype=torch.float64) * 2.6 - 1.3).requires_grad_()
    upstream = torch.randn(3, 6, 7, 5, dtype=torch.float64)

    ours = grid(coordinates)
    gradients = torch.autograd.grad((ours * upstream).sum(), [coordinates, grid.values])
    reference = functional.grid_sample(
        grid.values.expand(3, -1, -1, -1), coordinates, mode="bilinear", padding_mode="zeros", align_corners=False
    ).permute(0, 2, 3, 1)
    expected = torch.autograd.grad((reference * upstream).sum(), [coordinates, grid.values])

    torch.testing.assert_close(ours, reference)
    for actual, wanted in zip(gradients, expected, strict=True):
        torch.testing.assert_close(actual, wanted)


def test_reading_at_the_centre_of_a_cell_returns_the_cell() -> None:
    grid = ContinuousGrid(out_dim=2, resolution=8)
    row, column = 2, 5
    centre = torch.tensor([(2 * column + 1) / 8 - 1, (2 * row + 1) / 8 - 1])  # x first
    torch.testing.assert_close(grid(centre), grid.values[0, :, row, column])


def test_inside_the_outer_centres_weights_sum_to_one() -> None:
    grid = ContinuousGrid(out_dim=1, resolution=4)
    torch.nn.init.ones_(grid.values)
    inside = torch.rand(100, 2) * 1.5 - 0.75
    torch.testing.assert_close(grid(inside), torch.ones(100, 1))
    torch.testing.assert_close(grid(torch.tensor([-1.0, -1.0])), torch.tensor([0.25]))  # fades to half on each axis


def test_grid_needs_a_cell() -> None:
    with pytest.raises(ValueError, match="at least 1, got 0"):
        ContinuousGrid(out_dim=2, resolution=0)


def test_jitter_disturbs_whole_batches_in_training_only() -> None:
    coordinates = torch.zeros(4, 2, 3, 3)
    always, never = CoordinateJitter(std=0.05, probability=1.0), CoordinateJitter(std=0.05, probability=0.0)
    torch.manual_seed(0)
    disturbed = always(coordinates)
    assert (disturbed != 0).all()
    assert disturbed.std().item() == pytest.approx(0.05, rel=0.3)
    assert torch.equal(never(coordinates), coordinates)
    assert torch.equal(always.eval()(coordinates), coordinates)


def test_jitter_rate_is_the_probability() -> None:
    jitter = CoordinateJitter(std=1.0, probability=0.5)
    torch.manual_seed(0)
    share = sum(bool(jitter(torch.zeros(1)).any()) for _ in range(400)) / 400
    assert share == pytest.approx(0.5, abs=0.08)


@pytest.mark.parametrize(("std", "probability"), [(-0.1, 0.5), (0.1, 1.5), (0.1, -0.5)])
def test_jitter_arguments_are_checked(std: float, probability: float) -> None:
    with pytest.raises(ValueError, match="jitter_std must be >= 0 and jitter_probability in"):
        CoordinateJitter(std, probability)


def test_memories_keep_the_features_shape() -> None:
    features = torch.rand(2, 6, 5, 3)
    assert LocalMemory(6, resolution=8)(features).shape == features.shape
    assert GlobalMemory(6, feature_size=(5, 3), resolution=4)(features).shape == features.shape


def test_global_memory_cells_are_feature_maps() -> None:
    """A cell's numbers are channels first, as the authors' table stores them."""
    memory = GlobalMemory(3, feature_size=(2, 2), resolution=1)
    for value in memory.coordinates.parameters():
        torch.nn.init.zeros_(value)  # every image reads the middle of the only cell
    features = memory(torch.rand(1, 3, 2, 2))
    torch.testing.assert_close(features[0], memory.grid.values.reshape(3, 2, 2))
