# SPDX-License-Identifier: Apache-2.0

"""Merged datamodules: each category as its own datamodule splits it, mixed masks, and plain errors."""

from __future__ import annotations

import copy
import logging
from typing import TYPE_CHECKING

import pytest
from anomalib import TaskType
from anomalib.data import Folder, MVTecAD
from made_up_images import make_category
from torchvision.transforms.v2 import Resize

from anomalib_crad.data.multi_category import MultiCategory

if TYPE_CHECKING:
    from pathlib import Path

    from anomalib.data import AnomalibDataModule


def mvtec(folder: Path, **arguments: object) -> MVTecAD:
    arguments = {"num_workers": 0, **arguments}
    return MVTecAD(root=folder.parent, category=folder.name, **arguments)  # type: ignore[arg-type]


def no_masks(folder: Path) -> Folder:
    return Folder(
        name=folder.name,
        root=folder,
        normal_dir="train/good",
        normal_test_dir="test/good",
        abnormal_dir="test/scratch",
        val_split_mode="same_as_test",
        num_workers=0,
    )


def paths(datamodule: AnomalibDataModule, subset: str, category: str | None = None) -> list[str]:
    samples = getattr(datamodule, f"{subset}_data").samples
    if category is not None:
        samples = samples[samples["category"] == category]
    return sorted(samples["image_path"])


@pytest.mark.parametrize("val_split_mode", ["same_as_test", "from_test", "from_train"])
def test_each_category_is_split_as_its_own_datamodule_splits_it(tmp_path: Path, val_split_mode: str) -> None:
    folders = [
        make_category(tmp_path, "cap", train=10, good=6, bad=4),
        make_category(tmp_path, "nut", train=6, good=4, bad=8),
    ]
    split = {"val_split_mode": val_split_mode, "val_split_ratio": 0.5, "seed": 3}
    merged = MultiCategory([mvtec(folder, **split) for folder in folders])
    merged.setup()
    for folder in folders:
        alone = mvtec(folder, **split)
        alone.setup()
        for subset in ("train", "val", "test"):
            assert paths(merged, subset, folder.name) == paths(alone, subset)


def test_normal_test_images_come_from_training_only_where_a_category_has_none(tmp_path: Path) -> None:
    folders = [make_category(tmp_path, "cap", train=10, good=0), make_category(tmp_path, "nut", train=10)]
    merged = MultiCategory([mvtec(folder, test_split_ratio=0.2, seed=0) for folder in folders])
    merged.setup()
    assert len(paths(merged, "train", "cap")) == 8
    assert len(paths(merged, "train", "nut")) == 10


def test_synthetic_validation_images_have_category_and_mask(tmp_path: Path) -> None:
    folders = [make_category(tmp_path, name, train=8, size=(32, 32)) for name in ("cap", "nut")]
    merged = MultiCategory([mvtec(folder, val_split_mode="synthetic") for folder in folders])
    merged.setup()
    samples = merged.val_data.samples
    assert samples.groupby("category")["label_index"].sum().to_dict() == {"cap": 2, "nut": 2}
    assert samples["has_mask"].all()
    for index in range(len(samples)):
        item = merged.val_data[index]
        assert item.gt_mask is not None
        assert bool(item.gt_mask.any()) == bool(item.gt_label)


def test_names_are_unique_and_kept_in_samples(tmp_path: Path) -> None:
    first = make_category(tmp_path, "cap")
    second = first.rename(tmp_path / "cap")
    first = make_category(tmp_path, "cap")
    merged = MultiCategory([mvtec(first), mvtec(second)])
    merged.setup()
    assert merged.categories == ("MVTecAD_cap", "MVTecAD_cap_2")
    assert set(merged.test_data.samples["category"]) == set(merged.categories)


def test_categories_without_masks_mix_with_categories_that_have_them(tmp_path: Path) -> None:
    merged = MultiCategory([
        mvtec(make_category(tmp_path, "cap", good=3, bad=2)),
        no_masks(make_category(tmp_path, "nut")),
    ])
    merged.setup()
    assert merged.task == TaskType.SEGMENTATION
    labelled = merged.test_data.samples.groupby("category")["has_mask"].unique().map(list).to_dict()
    assert labelled == {"cap": [True], "nut": [False]}
    for loader in (merged.val_dataloader(), merged.test_dataloader()):
        batches = list(loader)
        assert [len(batch) for batch in batches] == [5, 4]
        assert batches[0].gt_mask.shape == (5, 16, 24)
        assert batches[1].gt_mask is None
        assert batches[1].gt_label.tolist() == [False, False, True, True]
    for batch in merged.train_dataloader():
        assert batch.gt_mask.shape == (8, 16, 24)
        assert not batch.gt_mask.any()


def test_no_masks_at_all_is_a_classification_task(tmp_path: Path) -> None:
    merged = MultiCategory([no_masks(make_category(tmp_path, "cap")), no_masks(make_category(tmp_path, "nut"))])
    merged.setup()
    assert merged.task == TaskType.CLASSIFICATION
    assert all(batch.gt_mask is None for batch in (*merged.train_dataloader(), *merged.test_dataloader()))


def test_a_training_set_smaller_than_a_batch_is_one_batch(tmp_path: Path) -> None:
    merged = MultiCategory(
        [mvtec(make_category(tmp_path, "cap", train=5)), mvtec(make_category(tmp_path, "nut", train=7))], 16
    )
    merged.setup()
    assert [len(batch) for batch in merged.train_dataloader()] == [12]


def test_a_category_with_normal_test_images_only_is_kept(tmp_path: Path) -> None:
    merged = MultiCategory([mvtec(make_category(tmp_path, "cap", bad=0)), mvtec(make_category(tmp_path, "nut"))])
    merged.setup()
    assert len(paths(merged, "test", "cap")) == 2
    assert merged.test_data.samples.query("category == 'cap'")["has_mask"].all()


def test_a_category_without_training_images_is_an_error_that_names_it(tmp_path: Path) -> None:
    merged = MultiCategory([mvtec(make_category(tmp_path, "cap")), mvtec(make_category(tmp_path, "nut", train=0))])
    with pytest.raises(ValueError, match="Category 'nut' has no training images"):
        merged.setup()


def test_an_error_while_reading_a_category_names_it(tmp_path: Path) -> None:
    folder = make_category(tmp_path, "cap")
    next((folder / "ground_truth" / "scratch").iterdir()).unlink()
    with pytest.raises(ValueError, match=rf"MVTecAD cannot read category 'cap' \(root: '{folder.parent}'\)"):
        MultiCategory([mvtec(folder)]).setup()


def test_bad_files_are_found_on_setup(tmp_path: Path) -> None:
    folder = make_category(tmp_path, "cap")
    path = folder / "test" / "good" / "000.png"
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(OSError, match=rf"Cannot read the image '{path}'"):
        MultiCategory([mvtec(folder)]).setup()


def test_no_datamodules_is_an_error() -> None:
    with pytest.raises(ValueError, match="`datamodules` is empty"):
        MultiCategory([])


def test_batch_sizes_are_the_datamodules_own_if_these_agree() -> None:
    agreeing = [MVTecAD(category=name, train_batch_size=4, eval_batch_size=8) for name in ("bottle", "tile")]
    assert MultiCategory(agreeing).train_batch_size == 4
    assert MultiCategory(agreeing, eval_batch_size=2).eval_batch_size == 2


def test_batch_sizes_that_disagree_are_an_error_unless_one_is_given() -> None:
    disagreeing = [MVTecAD(category="bottle", train_batch_size=4), MVTecAD(category="tile", train_batch_size=8)]
    with pytest.raises(ValueError, match=r"disagree on `train_batch_size` \(\[4, 8\]\)"):
        MultiCategory(disagreeing)
    assert MultiCategory(disagreeing, train_batch_size=6).train_batch_size == 6


def test_augmentations_of_one_category_are_an_error() -> None:
    with pytest.raises(ValueError, match=r"MVTecAD of category 'tile' .* has augmentations of its own"):
        MultiCategory([MVTecAD(category="bottle"), MVTecAD(category="tile", augmentations=Resize((8, 8)))])


def test_augmentations_apply_to_all_categories(tmp_path: Path) -> None:
    folders = [make_category(tmp_path, "cap", size=(24, 16)), make_category(tmp_path, "nut", size=(40, 30), mode="L")]
    merged = MultiCategory([mvtec(folder) for folder in folders], augmentations=Resize((8, 8)))
    merged.setup()
    for loader in (merged.train_dataloader(), merged.val_dataloader(), merged.test_dataloader()):
        assert next(iter(loader)).image.shape == (8, 3, 8, 8)


def test_images_of_several_sizes_load_without_a_model_too(tmp_path: Path) -> None:
    merged = MultiCategory([
        mvtec(make_category(tmp_path, "cap")),
        mvtec(make_category(tmp_path, "nut", size=(40, 30))),
    ])
    merged.setup()
    batch = next(iter(merged.test_dataloader()))
    assert batch.image.shape == (8, 3, 30, 40)
    assert batch.gt_mask.shape == (8, 30, 40)


def test_deep_copies_and_workers(tmp_path: Path) -> None:
    merged = MultiCategory([mvtec(make_category(tmp_path, name), num_workers=1) for name in ("cap", "nut")])
    merged.setup()
    copied = copy.deepcopy(merged)
    assert len(next(iter(copied.test_dataloader()))) == 8
    assert paths(copied, "train") == paths(merged, "train")


@pytest.mark.parametrize("categories", [1, 2])
def test_name_is_the_common_folder_and_category_that_of_a_single_one(tmp_path: Path, categories: int) -> None:
    folders = [make_category(tmp_path, name) for name in ("cap", "nut")[:categories]]
    merged = MultiCategory([mvtec(folder) for folder in folders])
    assert merged.name == "products"
    assert merged.category == ("cap" if categories == 1 else "")


def test_pictures_that_would_overwrite_each_other_are_warned_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folders = [make_category(tmp_path, name) for name in ("cap", "nut")]
    rootless = [
        Folder(
            name=folder.name,
            normal_dir=folder / "train" / "good",
            abnormal_dir=folder / "test" / "scratch",
            val_split_mode="same_as_test",
        )
        for folder in folders
    ]
    with caplog.at_level(logging.WARNING):
        merged = MultiCategory(rootless)
        merged.setup()
    assert merged.name == "MultiCategory"
    assert "one overwrites the other" in caplog.text
    assert str(folders[0]) in caplog.text
    assert str(folders[1]) in caplog.text
