# SPDX-License-Identifier: Apache-2.0

"""Marked patches, the coreset and the search against their plain definitions."""

from __future__ import annotations

import pytest
import torch

from anomalib_crad.models.dmad import memory
from anomalib_crad.models.dmad.memory import farthest_first, greedy_coreset, mark_patches, nearest, select_patches


def masks_of(*rectangles: tuple[int, int, int, int]) -> torch.Tensor:
    """Masks of 32 x 32 pixels, each with one rectangle: first row, last row, first column, last column."""
    masks = torch.zeros(len(rectangles), 32, 32, dtype=torch.bool)
    for mask, (top, bottom, left, right) in zip(masks, rectangles, strict=True):
        mask[top:bottom, left:right] = True
    return masks


def test_a_patch_counts_where_one_of_its_four_middle_pixels_is_marked() -> None:
    selected = select_patches(masks_of((3, 4, 4, 5), (2, 3, 4, 5), (0, 0, 0, 0)), (4, 4))
    assert selected.flatten(1).sum(dim=1).tolist() == [1, 0, 0]
    assert selected[0, 0, 0]


def test_a_mask_that_marks_nothing_takes_what_it_touches() -> None:
    """And only such a mask: the defect's edge counts for nothing where its middle is seen."""
    marked = mark_patches(masks_of((0, 2, 6, 10), (3, 17, 3, 4), (0, 0, 0, 0)), (4, 4))
    assert marked[0].nonzero().tolist() == [[0, 0], [0, 1]]
    assert marked[1].nonzero().tolist() == [[0, 0], [1, 0]]
    assert not marked[2].any()


def test_masks_need_not_have_the_size_of_the_image() -> None:
    assert mark_patches(torch.ones(1, 50, 70, dtype=torch.bool), (4, 4)).all()


def test_each_choice_is_the_farthest_from_those_before() -> None:
    torch.manual_seed(0)
    features = torch.randn(60, 5)
    chosen = greedy_coreset(features, 20, torch.tensor([3, 7]))
    distances = torch.cdist(features, features)
    value = distances[:, [3, 7]].mean(dim=1)
    for index in chosen:
        assert value[index] == pytest.approx(value.max().item(), abs=1e-4)
        value = torch.minimum(value, distances[index])


def test_no_patch_is_chosen_twice() -> None:
    features = torch.ones(8, 3)
    assert sorted(greedy_coreset(features, 8, torch.tensor([0])).tolist()) == list(range(8))


@pytest.mark.parametrize("count", [-1, 9])
def test_more_patches_than_there_are_cannot_be_chosen(count: int) -> None:
    with pytest.raises(ValueError, match=f"count must be from 0 to the number of patches, 8, got {count}"):
        farthest_first(torch.ones(8, 3), count, torch.zeros(8))


def test_the_search_is_exact_in_any_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    queries, bank = torch.randn(50, 6), torch.randn(37, 6)
    expected = torch.cdist(queries, bank).min(dim=1)
    for query_chunk, bank_chunk in [(8192, 4096), (7, 10), (50, 37), (1, 1)]:
        monkeypatch.setattr(memory, "QUERY_CHUNK", query_chunk)
        monkeypatch.setattr(memory, "BANK_CHUNK", bank_chunk)
        squared, index = nearest(queries, bank)
        assert torch.equal(index, expected.indices)
        torch.testing.assert_close(squared.sqrt(), expected.values)


def test_a_patch_is_at_no_distance_from_itself() -> None:
    """However much a matrix product rounds."""
    bank = 30 + torch.rand(20, 30)
    squared, index = nearest(bank, bank)
    assert index.tolist() == list(range(20))
    assert not squared.any()


def test_the_search_holds_no_more_distances_than_a_chunk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "QUERY_CHUNK", 16)
    monkeypatch.setattr(memory, "BANK_CHUNK", 8)
    largest = 0

    def record(values: torch.Tensor, *args: object, **kwargs: object) -> torch.Tensor:
        nonlocal largest
        result = matmul(values, *args, **kwargs)  # type: ignore[arg-type]
        largest = max(largest, result.numel())
        return result

    matmul = torch.Tensor.__matmul__
    monkeypatch.setattr(torch.Tensor, "__matmul__", record)
    nearest(torch.rand(100, 4), torch.rand(50, 4))
    assert largest == 16 * 8


def test_half_precision_is_searched_in_single_precision() -> None:
    torch.manual_seed(0)
    queries, bank = torch.randn(50, 64) + 30, torch.randn(80, 64) + 30
    expected = nearest(queries, bank)[1]
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(nearest(queries, bank)[1], expected)
    assert nearest(queries.bfloat16(), bank.bfloat16())[0].dtype == torch.float32


def test_an_empty_bank_is_an_error() -> None:
    with pytest.raises(ValueError, match="memory bank is empty"):
        nearest(torch.rand(2, 4), torch.empty(0, 4))
