# SPDX-License-Identifier: Apache-2.0

"""No batch mixes images with and without masks, and none is lost."""

from __future__ import annotations

import pytest
import torch
from anomalib.data import ImageItem
from torch.utils.data import SequentialSampler

from anomalib_crad.data.mask_batches import MaskBatchSampler, collate_masks_or_none


@pytest.mark.parametrize(
    ("has_mask", "expected"),
    [
        ([True] * 5, [[0, 1], [2, 3], [4]]),
        ([True, True, True, False, False], [[0, 1], [2], [3, 4]]),
        ([True, False, True], [[0], [1], [2]]),
        ([], []),
    ],
)
def test_batches_end_where_the_kind_changes(has_mask: list[bool], expected: list[list[int]]) -> None:
    sampler = MaskBatchSampler(SequentialSampler(has_mask), batch_size=2, has_mask=has_mask)
    assert list(sampler) == expected
    assert len(sampler) == len(expected)


def item(*, mask: bool) -> ImageItem:
    return ImageItem(
        image=torch.rand(3, 4, 4),
        gt_mask=torch.ones(4, 4, dtype=torch.uint8) if mask else None,
        gt_label=torch.tensor(1),
    )


def test_masks_are_stacked_if_all_items_have_one() -> None:
    batch = collate_masks_or_none([item(mask=True), item(mask=True)])
    assert batch.gt_mask is not None
    assert batch.gt_mask.shape == (2, 4, 4)


@pytest.mark.parametrize("first_has_mask", [True, False])
def test_a_batch_has_no_masks_if_one_item_has_none(first_has_mask: bool) -> None:
    batch = collate_masks_or_none([item(mask=first_has_mask), item(mask=not first_has_mask)])
    assert batch.gt_mask is None
    assert len(batch) == 2
