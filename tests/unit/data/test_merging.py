# SPDX-License-Identifier: Apache-2.0

"""Names of categories, merged frames and the folder that keeps the categories' pictures apart."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd
import pytest
from anomalib.data import Folder, MVTecAD, Visa

from anomalib_crad.data.merging import common_folder_name, merge_samples, overwritten_pictures, unique_category_names

if TYPE_CHECKING:
    from pathlib import Path


def frame(*names: str, task: str = "segmentation", label: int = 0) -> pd.DataFrame:
    samples = pd.DataFrame({"image_path": [f"/data/{name}" for name in names]})
    samples = samples.assign(split="test", label_index=label, mask_path=None)
    samples.attrs["task"] = task
    return samples


def test_categories_keep_their_names_where_these_are_unique() -> None:
    datamodules = [MVTecAD(category="bottle"), Visa(category="candle"), Folder(name="cap", normal_dir="good")]
    assert unique_category_names(datamodules) == ["bottle", "candle", "cap"]


def test_shared_names_get_the_datamodule_before_and_if_need_be_a_number_behind() -> None:
    datamodules = [MVTecAD(category="cap"), Visa(category="cap"), MVTecAD(root="other", category="cap")]
    assert unique_category_names(datamodules) == ["MVTecAD_cap", "Visa_cap", "MVTecAD_cap_2"]


def test_each_image_has_its_category_and_says_whether_its_pixels_are_labelled() -> None:
    frames = {"a": frame("a1", "a2"), "b": frame("b1", task="classification", label=1)}
    merged = merge_samples(frames, training=False)
    assert merged["category"].tolist() == ["a", "a", "b"]
    assert merged["has_mask"].tolist() == [True, True, False]


def test_training_images_all_have_empty_masks_once_a_category_has_masks() -> None:
    frames = {"a": frame("a1"), "b": frame("b1", task="classification")}
    assert merge_samples(frames, training=True)["has_mask"].tolist() == [True, True]


def test_training_images_have_no_masks_if_no_category_has() -> None:
    frames = {"a": frame("a1", task="classification"), "b": frame("b1", task="classification")}
    assert merge_samples(frames, training=True)["has_mask"].tolist() == [False, False]


@pytest.mark.parametrize("missing", [None, float("nan"), "", pd.NA])
def test_every_kind_of_missing_mask_becomes_none(missing: object) -> None:
    samples = frame("a1")
    samples["mask_path"] = pd.Series([missing], dtype=object)
    assert merge_samples({"a": samples}, training=False)["mask_path"].tolist() == [None]


def test_an_anomalous_image_without_a_mask_has_no_labelled_pixels() -> None:
    merged = merge_samples({"a": frame("a1", label=1)}, training=False)
    assert merged["has_mask"].tolist() == [False]


def test_an_image_of_unknown_label_has_no_labelled_pixels() -> None:
    assert merge_samples({"a": frame("a1", label=-1)}, training=False)["has_mask"].tolist() == [False]


@pytest.mark.parametrize(("label", "expected"), [(1, "/data/m1.png"), (0, None), (-1, None)])
def test_only_anomalous_images_keep_their_masks(label: int, expected: str | None) -> None:
    samples = frame("a1", label=label).assign(mask_path="/data/m1.png")
    assert merge_samples({"a": samples}, training=False)["mask_path"].tolist() == [expected]


def test_an_image_in_two_categories_is_an_error_that_names_it() -> None:
    with pytest.raises(ValueError, match=r"/data/same' is in more than one category: \['a', 'b'\]"):
        merge_samples({"a": frame("same"), "b": frame("same", "other")}, training=False)


def test_image_paths_are_those_that_items_show(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    samples = frame("a1").assign(image_path=str(tmp_path / "link" / "a1"))
    assert merge_samples({"a": samples}, training=False)["image_path"].tolist() == [str(tmp_path / "real" / "a1")]


def test_common_folder_of_categories_of_one_root() -> None:
    assert common_folder_name([MVTecAD(root="/x/MVTec", category=name) for name in ("bottle", "tile")]) == "MVTec"
    assert common_folder_name([MVTecAD(root="/x/MVTec", category="bottle")]) == "MVTec"


def test_common_folder_of_several_roots_is_above_all_of_them() -> None:
    datamodules = [MVTecAD(root="/x/sets/MVTec", category="cap"), Visa(root="/x/sets/VisA", category="cap")]
    assert common_folder_name(datamodules) == "sets"


def test_common_folder_follows_symbolic_links(tmp_path: Path) -> None:
    (tmp_path / "disk" / "bottle").mkdir(parents=True)
    (tmp_path / "disk" / "tile").mkdir()
    (tmp_path / "MVTec").mkdir()
    for name in ("bottle", "tile"):
        (tmp_path / "MVTec" / name).symlink_to(tmp_path / "disk" / name)
    datamodules = [MVTecAD(root=tmp_path / "MVTec", category=name) for name in ("bottle", "tile")]
    assert common_folder_name(datamodules) == "disk"


def test_images_that_are_links_keep_their_own_names(tmp_path: Path) -> None:
    """As DVC, git-annex and model hubs lay data sets out: links to one store of nameless files."""
    blob = tmp_path / "store" / "84096e4b"
    blob.parent.mkdir()
    blob.touch()
    frames = {}
    for category in ("cap", "nut"):
        (tmp_path / category).mkdir()
        (tmp_path / category / "tray.png").symlink_to(blob)
        frames[category] = frame("x").assign(image_path=[str(tmp_path / category / "tray.png")])
    merged = merge_samples(frames, training=False)
    assert merged["image_path"].tolist() == [str(tmp_path / name / "tray.png") for name in ("cap", "nut")]


def test_links_of_folders_are_followed(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "cap").symlink_to(tmp_path / "disk")
    linked = frame("x").assign(image_path=[str(tmp_path / "cap" / "a.png")])
    assert merge_samples({"cap": linked}, training=False)["image_path"].tolist() == [str(tmp_path / "disk" / "a.png")]


def test_no_common_folder_without_roots() -> None:
    assert common_folder_name([Folder(name="cap", normal_dir="/x/good")]) is None
    assert common_folder_name([MVTecAD(root="/x", category="a"), MVTecAD(root="/y", category="a")]) is None


def test_overwritten_pictures_are_found_where_the_name_is_not_above_the_categories() -> None:
    samples = frame("x/cap/good/1.png", "x/nut/good/1.png")
    assert overwritten_pictures(samples, "x", "") is None
    assert overwritten_pictures(samples, "y", "") == ("/data/x/cap/good/1.png", "/data/x/nut/good/1.png")
