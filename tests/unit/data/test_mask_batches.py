# SPDX-License-Identifier: Apache-2.0

"""No batch mixes images with and without masks, and none is lost."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch
from anomalib.data import Folder, ImageItem, MVTecAD
from lightning.pytorch.overrides.distributed import UnrepeatedDistributedSamplerWrapper
from made_up_images import make_category
from torch.utils.data import DistributedSampler, SequentialSampler

from anomalib_crad.data.mask_batches import MaskBatchSampler, collate_masks_or_none
from anomalib_crad.data.multi_category import MultiCategory

if TYPE_CHECKING:
    from pathlib import Path

    from anomalib.data import AnomalibDataset


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


@pytest.fixture
def mixed(tmp_path: Path) -> AnomalibDataset:
    """Four test images with masks, then four without."""
    cap, nut = (make_category(tmp_path, name) for name in ("cap", "nut"))
    merged = MultiCategory([
        MVTecAD(root=cap.parent, category="cap"),
        Folder("nut", "train/good", nut, "test/scratch", "test/good", val_split_mode="same_as_test"),
    ])
    merged.setup()
    return merged.test_data


def test_it_finds_the_masks_of_a_datasets_samples(mixed: AnomalibDataset) -> None:
    """Lightning passes just these three where it cannot see how the sampler was made."""
    assert list(MaskBatchSampler(SequentialSampler(mixed), batch_size=3, drop_last=False)) == [
        [0, 1, 2],
        [3],
        [4, 5, 6],
        [7],
    ]


@pytest.mark.parametrize("rank", [0, 1])
def test_each_of_several_processes_has_whole_batches_of_its_part(mixed: AnomalibDataset, rank: int) -> None:
    sampler = DistributedSampler(mixed, num_replicas=2, rank=rank, shuffle=False)  # type: ignore[var-annotated]
    assert list(MaskBatchSampler(sampler, batch_size=3)) == [[rank, rank + 2], [rank + 4, rank + 6]]


def test_a_sampler_that_hides_its_dataset_is_a_plain_error(mixed: AnomalibDataset) -> None:
    hidden = UnrepeatedDistributedSamplerWrapper(SequentialSampler(mixed), num_replicas=2, rank=0)
    with pytest.raises(TypeError, match=r"Cannot tell from a Unrepeated.* Give the trainer or engine the datamodule"):
        MaskBatchSampler(hidden, batch_size=3)


def test_no_image_is_ever_dropped() -> None:
    with pytest.raises(ValueError, match="`drop_last` must be False"):
        MaskBatchSampler(SequentialSampler([True]), 1, [True], drop_last=True)


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
