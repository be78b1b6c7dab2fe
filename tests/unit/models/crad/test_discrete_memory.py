# SPDX-License-Identifier: Apache-2.0

"""Discrete memories store what a grid of the same size stores, and stand wherever a grid stands."""

from __future__ import annotations

import pytest
import torch

from anomalib_crad.models.crad.discrete_memory import (
    AttentionEntries,
    DiscreteEntries,
    DiscreteMemory,
    GlobalDiscreteMemory,
    LocalDiscreteMemory,
    MemoryKind,
    VectorQuantizedEntries,
    build_global_memory,
    build_local_memory,
)
from anomalib_crad.models.crad.memory import ContinuousGrid, GlobalMemory, LocalMemory

KINDS = pytest.mark.parametrize("kind", [VectorQuantizedEntries, AttentionEntries])
DISCRETE = pytest.mark.parametrize("kind", ["vector_quantization", "attention"])


@KINDS
def test_entries_start_as_the_cells_of_a_grid_do(kind: type[DiscreteEntries]) -> None:
    torch.manual_seed(0)
    entries, grid = kind(200, num_entries=64), ContinuousGrid(200, resolution=8)
    assert entries.values.numel() == grid.values.numel()
    assert entries.values.std().item() == pytest.approx(grid.values.std().item(), rel=0.03)


@KINDS
def test_weights_sum_to_one(kind: type[DiscreteEntries]) -> None:
    weights = kind(6, num_entries=5).weights(torch.randn(7, 3, 6))
    assert weights.shape == (7, 3, 5)
    torch.testing.assert_close(weights.sum(dim=-1), torch.ones(7, 3))


@KINDS
def test_a_memory_needs_an_entry(kind: type[DiscreteEntries]) -> None:
    with pytest.raises(ValueError, match="at least 1, got 0"):
        kind(2, num_entries=0)


@DISCRETE
def test_it_is_as_large_as_the_grid_and_has_no_network(kind: MemoryKind) -> None:
    for discrete, continuous in (
        (build_local_memory(kind, 6, 8, 0.05, 0.5), LocalMemory(6, 8)),
        (build_global_memory(kind, 6, (5, 3), 4), GlobalMemory(6, (5, 3), 4)),
    ):
        assert sum(value.numel() for value in discrete.parameters()) == continuous.grid.values.numel()


@DISCRETE
def test_it_keeps_the_features_shape(kind: MemoryKind) -> None:
    features = torch.rand(2, 6, 5, 3)
    assert build_local_memory(kind, 6, 8, 0.05, 0.5)(features).shape == features.shape
    assert build_global_memory(kind, 6, (5, 3), 4)(features).shape == features.shape


@KINDS
def test_a_local_memory_reads_each_position_by_itself(kind: type[DiscreteEntries]) -> None:
    memory = LocalDiscreteMemory(kind(6, num_entries=9))
    features = torch.randn(2, 6, 4, 3)
    torch.testing.assert_close(memory(features)[1, :, 2, 1], memory.entries(features[1, :, 2, 1]))


@KINDS
def test_a_global_memory_reads_whole_feature_maps(kind: type[DiscreteEntries]) -> None:
    """An entry's numbers are channels first, like a cell's of the grid."""
    memory = GlobalDiscreteMemory(kind(3 * 2 * 2, num_entries=1))  # the only entry is read whatever is asked
    torch.testing.assert_close(memory(torch.randn(1, 3, 2, 2))[0], memory.entries.values.reshape(3, 2, 2))


def test_kinds_by_name() -> None:
    assert isinstance(build_local_memory("grid", 6, 8, 0.05, 0.5), LocalMemory)
    assert isinstance(build_global_memory("grid", 6, (5, 3), 4), GlobalMemory)
    for kind, entries in {"vector_quantization": VectorQuantizedEntries, "attention": AttentionEntries}.items():
        for memory in (
            build_local_memory(kind, 6, 8, 0.05, 0.5),  # type: ignore[arg-type]  # a plain str
            build_global_memory(kind, 6, (5, 3), 4),  # type: ignore[arg-type]
        ):
            assert isinstance(memory, DiscreteMemory)
            assert isinstance(memory.entries, entries)


def test_unknown_kinds_are_an_error_that_names_the_known() -> None:
    message = "memory must be one of grid, vector_quantization, attention, got 'bank'"
    with pytest.raises(ValueError, match=message):
        build_local_memory("bank", 6, 8, 0.05, 0.5)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=message):
        build_global_memory("bank", 6, (5, 3), 4)  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", ["grid", "vector_quantization", "attention"])
@pytest.mark.parametrize("resolution", [0, -3])
def test_a_resolution_below_one_is_an_error(kind: MemoryKind, resolution: int) -> None:
    with pytest.raises(ValueError, match=f"must be at least 1, got {resolution}"):
        build_local_memory(kind, 6, resolution, 0.05, 0.5)
