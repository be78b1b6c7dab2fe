# SPDX-License-Identifier: Apache-2.0

"""Items are anomalib's items, whatever the image's channels, and a damaged file is named."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd
import pytest
import torch
from anomalib.data import ImageItem, MVTecADDataset
from made_up_images import MASK_PIXELS, make_category, write_image
from PIL import Image
from torch.utils.data import DataLoader
from torchvision.transforms.v2 import Resize

from anomalib_crad.data.dataset import MultiCategoryDataset, collate_masks_or_none
from anomalib_crad.data.merging import merge_samples

if TYPE_CHECKING:
    from pathlib import Path


def merged(folder: Path, split: str = "test") -> MultiCategoryDataset:
    source = MVTecADDataset(root=folder.parent, category=folder.name, split=split)
    return MultiCategoryDataset(merge_samples({folder.name: source.samples}, training=split == "train"))


@pytest.mark.parametrize("augmentations", [None, Resize((8, 8))])
@pytest.mark.parametrize("split", ["train", "test"])
def test_items_equal_those_of_anomalib(tmp_path: Path, split: str, augmentations: Resize | None) -> None:
    folder = make_category(tmp_path, "cap")
    dataset = merged(folder, split)
    dataset.augmentations = augmentations
    theirs = MVTecADDataset(root=folder.parent, category="cap", split=split, augmentations=augmentations)
    assert len(dataset) == len(theirs) == 4
    for index in range(len(dataset)):
        mine, other = dataset[index], theirs[index]
        torch.testing.assert_close(mine.image, other.image, rtol=0, atol=0)
        torch.testing.assert_close(mine.gt_mask, other.gt_mask, rtol=0, atol=0)
        assert mine.gt_label == other.gt_label
        assert str(mine.image_path) == theirs.samples.image_path[index]
        assert str(mine.mask_path) == str(other.mask_path)


def test_no_item_knows_its_category(tmp_path: Path) -> None:
    dataset = merged(make_category(tmp_path, "cap"))
    assert set(dataset.samples["category"]) == {"cap"}
    assert not hasattr(dataset[0], "category")


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "1"])
def test_images_of_other_channels_become_three_channels(tmp_path: Path, mode: str) -> None:
    image = merged(make_category(tmp_path, "cap", mode=mode))[0].image
    assert image is not None
    assert image.shape == (3, 16, 24)
    assert 0 <= image.min() < image.max() <= 1


def test_an_image_without_pixel_labels_has_no_mask_but_keeps_its_label(tmp_path: Path) -> None:
    dataset = merged(make_category(tmp_path, "cap"))
    samples = dataset.samples.assign(has_mask=False, mask_path=None)
    item = MultiCategoryDataset(samples, augmentations=Resize((8, 8)))[3]
    assert item.gt_mask is None
    assert item.gt_label == 1
    assert item.image is not None
    assert item.image.shape == (3, 8, 8)


def test_an_image_with_several_masks_has_their_union(tmp_path: Path) -> None:
    dataset = merged(make_category(tmp_path, "cap"))
    second = Image.new("L", (24, 16))
    second.putpixel((0, 0), 255)
    second.save(tmp_path / "second.png")
    row = dataset.samples.iloc[[3]].copy()
    row["mask_path"] = pd.Series([[row["mask_path"].item(), str(tmp_path / "second.png")]], index=row.index)
    mask = MultiCategoryDataset(row)[0].gt_mask
    assert mask is not None
    assert mask.sum() == MASK_PIXELS + 1


def test_a_mask_of_another_size_is_scaled_as_anomalib_scales_it(tmp_path: Path) -> None:
    folder = make_category(tmp_path, "cap", good=0, bad=1)
    path = next((folder / "ground_truth" / "scratch").iterdir())
    Image.open(path).resize((12, 8)).save(path)
    dataset = merged(folder)
    theirs = MVTecADDataset(root=folder.parent, category="cap", split="test")
    for augmentations in (None, Resize((10, 10))):
        dataset.augmentations = theirs.augmentations = augmentations
        torch.testing.assert_close(dataset[0].gt_mask, theirs[0].gt_mask, rtol=0, atol=0)


@pytest.mark.parametrize("num_workers", [0, 1])
@pytest.mark.parametrize("what", ["image", "mask"])
def test_a_file_damaged_inside_is_named(tmp_path: Path, what: str, num_workers: int) -> None:
    folder = make_category(tmp_path, "cap", good=0, bad=1)
    part = "test" if what == "image" else "ground_truth"
    path = next((folder / part / "scratch").iterdir())
    dataset = merged(folder)
    data = path.read_bytes()
    path.write_bytes(data[:50] + bytes(len(data) - 62) + data[-12:])
    loader = DataLoader(dataset, num_workers=num_workers, collate_fn=dataset.collate_fn)
    with pytest.raises(OSError, match=rf"Cannot read the {what} '{path}'"):
        next(iter(loader))


def test_images_of_several_sizes_make_one_batch_after_a_resize(tmp_path: Path) -> None:
    folder = make_category(tmp_path, "cap", train=1)
    write_image(folder / "train" / "good" / "wide.png", (40, 8), "L")
    dataset = merged(folder, "train")
    dataset.augmentations = Resize((8, 8))
    batch = dataset.collate_fn([dataset[0], dataset[1]])
    assert batch.image.shape == (2, 3, 8, 8)


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
