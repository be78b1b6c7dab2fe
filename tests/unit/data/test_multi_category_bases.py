# SPDX-License-Identifier: Apache-2.0

"""``MultiCategory`` with the name of a base: every one of anomalib's, as it is by itself, mixed, and plain errors."""

from __future__ import annotations

import warnings
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

import anomalib.data
import pandas as pd
import pytest
import torch
from anomalib import TaskType
from anomalib.data import AnomalibDataModule, MVTecAD, MVTecLOCO, Visa
from anomalib.data.datamodules.image import visa
from anomalib.data.utils.path import contains_non_printable_characters
from made_up_images import make_category
from made_up_sets import SETS, make_btech, make_folder, make_kolektor, make_mvtecad2, make_realiad
from omegaconf import OmegaConf
from torchvision.transforms.v2 import Resize

from anomalib_crad.data.elpv import Elpv
from anomalib_crad.data.multi_category import MultiCategory
from anomalib_crad.data.mvtec import MVTec
from anomalib_crad.data.reading import SUBSETS

if TYPE_CHECKING:
    from collections.abc import Generator
    from pathlib import Path


def set_up(*arguments: Any, **keywords: Any) -> MultiCategory:  # noqa: ANN401
    datamodule = MultiCategory(*arguments, **keywords)
    datamodule.prepare_data()
    datamodule.setup()
    return datamodule


def subset(datamodule: AnomalibDataModule, name: str) -> Any:  # noqa: ANN401 - an item's type is too wide
    """Return what the datamodule hands to a trainer."""
    return getattr(datamodule, f"{name}_dataloader")().dataset


@contextmanager
def strings_as_objects() -> Generator[None, None, None]:
    """As in pandas 2: by themselves, ``MVTecLOCO`` and ``MVTecAD2`` of anomalib 2.7 cannot be read with pandas 3."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        option = pd.option_context("future.infer_string", False)  # noqa: FBT003
        with option if pd.__version__.startswith("3.") else nullcontext():
            yield


@pytest.mark.parametrize("base", SETS)
def test_each_category_is_what_its_own_datamodule_loads(tmp_path: Path, base: str) -> None:
    make, categories = SETS[base]
    root = tmp_path / base
    root.mkdir()
    base_args = {**make(root), "num_workers": 0}
    merged = set_up(base=base, categories=categories, base_args=base_args)
    for name, alone in merged.datamodules.items():
        with strings_as_objects():
            alone.setup()
        for each in SUBSETS:
            theirs, ours = subset(alone, each), subset(merged, each)
            mine = ours.samples.index[ours.samples["category"] == name]
            expected = {str(theirs[index].image_path): theirs[index] for index in range(len(theirs))}
            assert len(mine) == len(expected)
            for index in mine:
                item = ours[index]
                other = expected[str(item.image_path)]
                assert item.gt_label == other.gt_label
                torch.testing.assert_close(item.image, other.image, rtol=0, atol=0)
                if other.gt_mask is not None:
                    torch.testing.assert_close(item.gt_mask, other.gt_mask, rtol=0, atol=0)
                elif each != "train":  # where another category has masks, normal training images have empty ones
                    assert item.gt_mask is None


@pytest.mark.parametrize("base", SETS)
def test_every_set_loads_in_batches_and_keeps_its_pictures_apart(
    tmp_path: Path, base: str, caplog: pytest.LogCaptureFixture
) -> None:
    make, categories = SETS[base]
    root = tmp_path / base
    root.mkdir()
    merged = set_up(base=base, categories=categories, base_args={**make(root), "num_workers": 0}, train_batch_size=3)
    assert merged.name == base
    for each in SUBSETS:
        loader = getattr(merged, f"{each}_dataloader")()
        assert sum(len(batch) for batch in loader) == len(subset(merged, each))
    assert "overwrites the other" not in caplog.text


def test_a_folder_is_a_product_whatever_it_lacks(tmp_path: Path) -> None:
    merged = set_up(base="Folder", base_args={**make_folder(tmp_path), "num_workers": 0})
    assert merged.categories == ("cap", "nut", "pin")
    assert merged.task == TaskType.SEGMENTATION
    counts = merged.test_data.samples.groupby(["category", "label_index"]).size().to_dict()
    assert counts == {("cap", 0): 2, ("cap", 1): 2, ("nut", 0): 2, ("nut", 1): 2, ("pin", 0): 2}
    labelled = merged.test_data.samples.groupby("category")["has_mask"].any().to_dict()
    assert labelled == {"cap": True, "nut": False, "pin": False}
    assert [batch.gt_mask is not None for batch in merged.test_dataloader()] == [True, False]


def test_loco_image_with_several_masks_has_their_union(tmp_path: Path) -> None:
    make, _ = SETS["MVTecLOCO"]
    merged = set_up(base="MVTecLOCO", categories="pushpins", base_args={**make(tmp_path), "num_workers": 0})
    assert isinstance(merged.datamodules["pushpins"], MVTecLOCO)
    samples = merged.test_data.samples
    (index,) = samples.index[samples["mask_path"].map(lambda paths: isinstance(paths, list) and len(paths) == 2)]
    (other,) = samples.index[samples["image_path"].str.endswith("g.png")]
    dataset = subset(merged, "test")
    mask, first = dataset[index].gt_mask, dataset[other].gt_mask
    assert (mask >= first).all()
    assert mask.sum() > first.sum()


@pytest.mark.parametrize(("test_type", "label"), [("public", 1), ("private", -1), ("private_mixed", -1)])
def test_mvtecad2_tests_on_the_set_that_is_chosen(tmp_path: Path, test_type: str, label: int) -> None:
    base_args = {**make_mvtecad2(tmp_path), "num_workers": 0, "test_type": test_type}
    merged = set_up(base="MVTecAD2", categories=["can", "fabric"], base_args=base_args)
    assert all(f"test_{test_type}/" in path for path in merged.test_data.samples["image_path"])
    assert merged.test_data.samples["label_index"].max() == label
    (batch,) = merged.test_dataloader()
    assert (batch.gt_label is None) == (batch.gt_mask is None) == (test_type != "public")


def test_labelled_and_unlabelled_categories_do_not_mix(tmp_path: Path) -> None:
    arguments = {**make_mvtecad2(tmp_path / "two"), "category": "can", "test_type": "private"}
    private = anomalib.data.MVTecAD2(**arguments, num_workers=0)
    cap = make_category(tmp_path, "cap")
    with pytest.raises(ValueError, match=r"The test images of \['can'\] have no labels, those of other"):
        set_up([MVTecAD(root=cap.parent, category="cap", num_workers=0), private])


def test_realiad_keeps_normal_test_images_if_told_to(tmp_path: Path) -> None:
    base_args = {**make_realiad(tmp_path), "num_workers": 0}
    categories: list[str | int] = ["audiojack", "usb"]
    for test_split_mode, expected in (("none", [1] * 4), ("from_dir", [0] * 4 + [1] * 4)):
        base_args["test_split_mode"] = test_split_mode
        merged = set_up(base="RealIAD", categories=categories, base_args=base_args)
        assert sorted(merged.test_data.samples["label_index"]) == expected


def test_masks_that_a_base_names_for_normal_images_are_not_asked_for(tmp_path: Path) -> None:
    merged = set_up(base="BTech", base_args={**make_btech(tmp_path), "num_workers": 0})
    assert merged.train_data.samples["mask_path"].isna().all()


def test_bases_mix_by_nesting(tmp_path: Path) -> None:
    nested = MultiCategory(base="BTech", categories=["01", "03"], base_args=make_btech(tmp_path / "BTech"))
    kolektor = MultiCategory(base="Kolektor", base_args=make_kolektor(tmp_path / "kolektor"))
    cap = MVTecAD(root=make_category(tmp_path, "cap").parent, category="cap")
    merged = set_up([nested, kolektor, cap], num_workers=0, train_batch_size=4)
    assert merged.categories == ("01", "03", "Kolektor", "cap")
    assert set(merged.test_data.samples["category"]) == set(merged.categories)
    assert merged.name == tmp_path.name


def test_mvtec_and_elpv_nest_too() -> None:
    pytest.importorskip("elpv_dataset")
    merged = MultiCategory([MVTec(category=["tile", "wood"]), Elpv(), Visa(category="pcb1")])
    assert merged.categories == ("tile", "wood", "mono", "poly", "pcb1")


@pytest.mark.parametrize("as_omegaconf", [False, True])
def test_nested_datamodules_may_be_raw_configurations(as_omegaconf: bool) -> None:
    entries: Any = [
        {"class_path": "MVTecAD", "init_args": {"category": "tile"}},
        {
            "class_path": "anomalib_crad.data.multi_category.MultiCategory",
            "init_args": {"base": "Visa", "categories": ["pcb1", "pcb2"], "base_args": {"root": "/x", "seed": 1}},
        },
    ]
    merged = MultiCategory(OmegaConf.create(entries) if as_omegaconf else entries)
    assert merged.categories == ("tile", "pcb1", "pcb2")
    assert merged.datamodules["pcb2"].seed == 1


def test_omegaconf_values_are_taken(tmp_path: Path) -> None:
    config = OmegaConf.create({"categories": ["cap"], "base_args": {**make_folder(tmp_path), "root": str(tmp_path)}})
    merged = MultiCategory(base="Folder", categories=config.categories, base_args=config.base_args)
    assert merged.categories == ("cap",)
    assert type(vars(merged.datamodules["cap"])["abnormal_dir"]) is list


def test_one_category_has_its_name() -> None:
    merged = MultiCategory(base="Visa", categories="pcb1")
    assert (merged.category, merged.name) == ("pcb1", "visa")


def test_batch_sizes_of_the_base_give_way_to_those_of_the_whole() -> None:
    assert MultiCategory(base="Visa", base_args={"train_batch_size": 4}).train_batch_size == 4
    assert MultiCategory(base="Visa", base_args={"train_batch_size": 4}, train_batch_size=6).train_batch_size == 6


def test_seed_fixes_the_splits_of_all_categories(tmp_path: Path) -> None:
    base_args = {**make_folder(tmp_path), "val_split_mode": "from_train", "val_split_ratio": 0.5, "num_workers": 0}
    first, again, other = (
        set_up(base="Folder", base_args={**base_args, "seed": seed}).val_data.samples["image_path"].tolist()
        for seed in (0, 0, 1)
    )
    assert first == again
    assert first != other


def test_what_to_merge_is_said_once() -> None:
    with pytest.raises(ValueError, match="`datamodules` and `base` are both given"):
        MultiCategory([Visa()], base="Visa")
    with pytest.raises(ValueError, match="Nothing to merge: give a `base`"):
        MultiCategory()
    with pytest.raises(ValueError, match="`categories` and `base_args` are those of a `base`, which is not given"):
        MultiCategory([Visa()], categories=["pcb1"])
    with pytest.raises(ValueError, match="`categories` and `base_args` are those of a `base`, which is not given"):
        MultiCategory(base_args={"root": "/x"})


def test_unknown_base_lists_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"Unknown `base`: 'Vsia'. Known: AutoVI, "):
        MultiCategory(base="Vsia")


@pytest.mark.parametrize("setting", [{"balance": "category"}, {"check": True}])
def test_settings_of_the_whole_are_not_a_nested_ones(setting: dict[str, Any]) -> None:
    nested = MultiCategory(base="BTech", **setting)
    with pytest.raises(ValueError, match=f"in `datamodules` has `{next(iter(setting))}` set; give it to the merging"):
        MultiCategory([nested])


def test_augmentations_of_a_nested_one_are_an_error() -> None:
    with pytest.raises(ValueError, match=r"MultiCategory of category .* has augmentations of its own"):
        MultiCategory([MultiCategory(base="BTech", augmentations=Resize((8, 8)))])


def test_categories_that_cannot_be_read_are_all_named(tmp_path: Path) -> None:
    folder = make_category(tmp_path, "bottle")
    merged = MultiCategory(
        base="MVTecAD", categories=["tile", "bottle", "wood"], base_args={"root": folder.parent, "num_workers": 0}
    )
    with pytest.raises(
        ValueError, match=r"cannot read category 'tile'.*Nor can these be read: wood. Can be read: bottle\."
    ):
        merged.setup()


def test_an_empty_product_is_an_error_that_names_it(tmp_path: Path) -> None:
    arguments = make_folder(tmp_path)
    (tmp_path / "bolt" / "good").mkdir(parents=True)
    with pytest.raises(
        ValueError, match=r"Folder cannot read category 'bolt' \(root: '.*bolt'\): Found 0 .* images in"
    ):
        set_up(base="Folder", base_args={**arguments, "num_workers": 0})


def test_failed_download_names_category_and_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(_root: Path, _info: object) -> None:
        reason = "no network"
        raise OSError(reason)

    monkeypatch.setattr(visa, "download_and_extract", offline)
    merged = MultiCategory(base="Visa", base_args={"root": tmp_path})
    with pytest.raises(
        FileNotFoundError, match=rf"Visa has no images of category 'candle' in root='{tmp_path}' .*: no network. Put"
    ):
        merged.prepare_data()


def test_missing_and_surplus_masks_of_own_products_are_found_by_name(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    base_args = {**make_folder(tmp_path), "num_workers": 0}
    masks = tmp_path / "cap" / "masks" / "scratch"
    (masks / "caph.png").rename(masks / "capx.png")
    datamodule = MultiCategory(base="Folder", categories=["cap"], base_args=base_args)
    datamodule.setup()
    assert "1 masks have no image and are not used" in caplog.text
    assert str(masks / "capx.png") in caplog.text
    for data in (datamodule.test_data, datamodule.val_data):
        anomalous = data.samples[data.samples["label_index"] == 1].set_index("image_path")
        folder = tmp_path / "cap" / "defective" / "scratch"
        assert anomalous["has_mask"].to_dict() == {str(folder / "capg.png"): True, str(folder / "caph.png"): False}
        assert anomalous.loc[str(folder / "capg.png"), "mask_path"] == str(masks / "capg.png")
    assert vars(datamodule.datamodules["cap"])["mask_dir"] == ["masks"]


@pytest.mark.parametrize("base", ["Folder", "MVTecAD"])
def test_letters_beyond_ascii_in_paths(tmp_path: Path, base: str) -> None:
    folder = make_category(tmp_path / "Pr\u00fcfbilder", "Geh\u00e4use")
    folders = {"normal_dir": "train/good", "abnormal_dir": "test/scratch", "mask_dir": "ground_truth/scratch"}
    base_args = {"root": folder.parent, "num_workers": 0, **(folders if base == "Folder" else {})}
    datamodule = MultiCategory(base=base, categories=["Geh\u00e4use"], base_args=base_args)
    datamodule.setup()
    assert datamodule.test_data.samples["has_mask"].all()
    assert datamodule.test_data[0].image is not None
    assert contains_non_printable_characters("\u00e4")  # anomalib is as before
    assert all(path.startswith(str(folder)) for path in datamodule.train_data.samples["image_path"])
