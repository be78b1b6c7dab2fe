# SPDX-License-Identifier: Apache-2.0

"""``MVTec``: all categories or some, real images, and what a wrong root or name says."""

from __future__ import annotations

import inspect
import shutil
from pathlib import Path
from typing import Any
from urllib.error import URLError

import pytest
from anomalib.data import MVTecAD
from anomalib.data.datamodules.image import mvtecad
from made_up_images import make_category
from omegaconf import OmegaConf

from anomalib_crad.data.mvtec import MVTec

SHARED_DATA = Path(__file__).parents[3].parent / "shared" / "data"
REAL = ["bottle", "juice_bottle", "ksdd", "tire"]


def test_all_fifteen_categories_by_default() -> None:
    datamodule = MVTec()
    assert len(datamodule.categories) == 15
    assert {"bottle", "zipper"} < set(datamodule.categories)
    assert datamodule.name == "MVTecAD"
    assert not datamodule.category


def test_arguments_and_defaults_are_those_of_anomalibs_mvtecad() -> None:
    def defaults(cls: type) -> dict[str, Any]:
        return {name: parameter.default for name, parameter in inspect.signature(cls).parameters.items()}

    assert defaults(MVTec) == {**defaults(MVTecAD), "category": None}


def test_arguments_reach_anomalibs_base() -> None:
    split = {"test_split_mode": "synthetic", "test_split_ratio": 0.3, "val_split_mode": "from_test", "seed": 5}
    datamodule = MVTec(category=["bottle", "tile"], val_split_ratio=0.4, **split)  # type: ignore[arg-type]
    for each in datamodule._datamodules.values():
        assert each.test_split_mode == "synthetic"
        assert each.test_split_ratio == pytest.approx(0.3)
        assert each.val_split_mode == "from_test"
        assert each.val_split_ratio == pytest.approx(0.4)
        assert each.seed == 5


@pytest.mark.parametrize("category", ["tile", ["tile"], ("tile",), OmegaConf.create(["tile"])])
def test_category_is_a_name_or_any_kind_of_list(category: object) -> None:
    assert MVTec(category=category).categories == ("tile",)  # type: ignore[arg-type]


@pytest.mark.skipif(not SHARED_DATA.is_dir(), reason="no shared data beside the repository")
def test_real_images_load() -> None:
    datamodule = MVTec(root=SHARED_DATA, category=REAL, num_workers=0)
    datamodule.prepare_data()
    datamodule.setup()
    assert datamodule.train_data.samples.groupby("category").size().to_dict() == dict.fromkeys(REAL, 100)
    assert len(datamodule.test_data) == 355
    batch = next(iter(datamodule.test_dataloader()))
    assert batch.image.shape == (32, 3, 256, 256)
    assert batch.gt_mask.shape == (32, 256, 256)


def test_unknown_category_lists_the_known_ones(tmp_path: Path) -> None:
    make_category(tmp_path, "cap")
    with pytest.raises(ValueError, match=r"Unknown `category`: 'bottel'.*bottle, cable, .*zipper, cap"):
        MVTec(root=tmp_path / "products", category=["cap", "bottel"])


def test_empty_and_repeated_categories_are_errors() -> None:
    with pytest.raises(ValueError, match="`category` is empty"):
        MVTec(category=[])
    with pytest.raises(ValueError, match="names a category twice"):
        MVTec(category=["tile", "tile"])


@pytest.mark.parametrize("method", ["prepare_data", "setup"])
def test_root_that_lacks_categories_says_which_and_how_to_select(tmp_path: Path, method: str) -> None:
    for name in ("bottle", "cap"):
        make_category(tmp_path, name)
    with pytest.raises(
        FileNotFoundError, match=r"lacks 14 of 15.*cable.*zipper.*category=\['bottle', 'cap'\]"
    ) as error:
        getattr(MVTec(root=tmp_path / "products"), method)()
    assert "bottle, cable" not in str(error.value)


def test_nothing_is_downloaded_over_other_categories(tmp_path: Path) -> None:
    make_category(tmp_path, "cap")
    with pytest.raises(FileNotFoundError, match=r"lacks 1 of 1 categories: cable\. It holds: cap"):
        MVTec(root=tmp_path / "products", category="cable").prepare_data()


def test_setup_without_a_root_tells_how_to_get_the_data(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=rf"{tmp_path / 'none'}' does not exist. Call `prepare_data\(\)`"):
        MVTec(root=tmp_path / "none").setup()


def test_failed_download_names_root_and_remedy_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def offline(root: Path, _info: object) -> None:
        root.mkdir(parents=True)
        reason = "no network"
        raise URLError(reason)

    monkeypatch.setattr(mvtecad, "download_and_extract", offline)
    root = tmp_path / "new" / "MVTecAD"
    with pytest.raises(FileNotFoundError, match=rf"{root}' does not exist.*no network.*{root}/bottle/train/good"):
        MVTec(root=root).prepare_data()
    assert not (tmp_path / "new").exists()


def test_download_happens_once_for_an_empty_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    downloads = []

    def download(target: Path, _info: object) -> None:
        downloads.append(target)
        shutil.copytree(tmp_path / "products", target, dirs_exist_ok=True)

    for name in ("bottle", "tile"):
        make_category(tmp_path, name)
    monkeypatch.setattr(mvtecad, "download_and_extract", download)
    datamodule = MVTec(root=tmp_path / "MVTecAD", category=["bottle", "tile"])
    datamodule.prepare_data()
    datamodule.prepare_data()
    datamodule.setup()
    assert downloads == [tmp_path / "MVTecAD"]
    assert len(datamodule.train_data) == 8
