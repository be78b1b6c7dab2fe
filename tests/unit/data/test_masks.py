# SPDX-License-Identifier: Apache-2.0

"""Masks are found by name, wherever anomalib's sorted lists fail, and as anomalib finds them elsewhere."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from anomalib_crad.data.masks import mask_files, pair_masks


def pairs(images: str, masks: str) -> dict[str, list[str]]:
    found = pair_masks([Path(f"i/{name}.png") for name in images.split()], [Path(f"m/{n}.png") for n in masks.split()])
    return {str(image.relative_to("i").with_suffix("")): [mask.stem for mask in each] for image, each in found.items()}


def test_pairs_of_anomalib_are_kept() -> None:
    assert pairs("1 2", "mask1x mask2x") == {"1": ["mask1x"], "2": ["mask2x"]}


def test_numbers_sort_otherwise_with_a_suffix() -> None:
    masks = "10_mask 1_mask 2_mask"
    assert pairs("1 10 2", masks) == {"1": ["1_mask"], "10": ["10_mask"], "2": ["2_mask"]}


def test_a_missing_mask_leaves_its_image_out() -> None:
    assert pairs("000 001 002", "000 002") == {"000": ["000"], "002": ["002"]}


def test_a_mask_without_an_image_is_named(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        assert pairs("000 001", "000 001 999") == {"000": ["000"], "001": ["001"]}
    assert f"1 masks have no image and are not used: '{Path('m/999.png')}'" in caplog.text


def test_several_masks_of_an_image_are_all_used_unless_one_has_its_very_name() -> None:
    assert pairs("a b", "a_1 a_2 b b_note") == {"a": ["a_1", "a_2"], "b": ["b"]}


def test_the_longest_name_wins() -> None:
    assert pairs("a a_1", "a_1_mask a_mask gt-a") == {"a": ["a_mask", "gt-a"], "a_1": ["a_1_mask"]}


def test_folders_decide_between_images_of_one_name() -> None:
    masks = "dent/000_mask scratch/000_mask scratch/001_mask"
    found = pairs("dent/000 scratch/000", masks)
    assert found == {"dent/000": ["000_mask"], "scratch/000": ["000_mask"]}


def test_a_mask_that_could_belong_to_two_images_belongs_to_none(caplog: pytest.LogCaptureFixture) -> None:
    assert pairs("dent/000 scratch/000 scratch/001", "000_mask 001_mask") == {"scratch/001": ["001_mask"]}
    assert "000_mask" in caplog.text


def test_masks_that_are_named_like_no_image_are_an_error() -> None:
    with pytest.raises(ValueError, match=r"No mask is named like an image: '.*x.png' and '.*a.png', for example"):
        pairs("a b", "x")


def test_a_folder_without_masks_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").touch()
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "1.PNG").touch()
    assert mask_files([tmp_path]) == [tmp_path / "b" / "1.PNG"]
    with pytest.raises(FileNotFoundError, match=r"There are no masks in '.*none' \(`mask_dir`\)"):
        mask_files([tmp_path, tmp_path / "none"])
    with pytest.raises(FileNotFoundError, match="no masks"):
        mask_files([tmp_path], extensions=(".bmp",))
