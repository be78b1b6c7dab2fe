# SPDX-License-Identifier: Apache-2.0

"""``Elpv``: a fixed split, caps that nest, image labels only, and the missing package."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import pytest
from anomalib import TaskType

from anomalib_crad.data.elpv import Elpv

if TYPE_CHECKING:
    import pandas as pd


@pytest.fixture(autouse=True)
def _package() -> None:
    pytest.importorskip("elpv_dataset")


def samples(subset: str, **arguments: object) -> pd.DataFrame:
    datamodule = Elpv(num_workers=0, **arguments)  # type: ignore[arg-type]
    datamodule.setup()
    return getattr(datamodule, f"{subset}_data").samples


def test_all_images_by_default_with_certain_labels_only() -> None:
    assert samples("train").groupby(["category", "label_index"]).size().to_dict() == {
        ("mono", 0): 412,
        ("poly", 0): 644,
    }
    test = samples("test").groupby(["category", "label_index"]).size().to_dict()
    assert test == {("mono", 0): 176, ("mono", 1): 313, ("poly", 0): 276, ("poly", 1): 402}


def test_labels_are_those_of_the_package() -> None:
    test = samples("test").set_index("image_path")["label_index"]
    assert test[test.index.str.endswith("cell0001.png")].tolist() == [1]


def test_caps_count_per_category_and_balance_the_test_set() -> None:
    caps = {"max_train_images": 10, "max_test_images": 8}
    assert samples("train", **caps).groupby("category").size().to_dict() == {"mono": 10, "poly": 10}
    counts = samples("test", **caps).groupby(["category", "label_index"]).size()
    assert counts.tolist() == [4, 4, 4, 4]


def test_smaller_caps_choose_among_what_larger_ones_have_chosen() -> None:
    for subset, cap in (("train", "max_train_images"), ("test", "max_test_images")):
        small, large, everything = (set(samples(subset, **{cap: size})["image_path"]) for size in (10, 40, None))
        assert small < large < everything


def test_the_split_is_fixed_by_the_seed_and_never_overlaps() -> None:
    first, again, other = (samples("test", seed=seed)["image_path"].tolist() for seed in (0, 0, 1))
    assert first == again
    assert first != other
    assert not set(first) & set(samples("train")["image_path"])


@pytest.mark.parametrize("category", ["mono", ["mono"]])
def test_one_category(category: list[str] | str) -> None:
    datamodule = Elpv(category=category)
    assert datamodule.categories == ("mono",)
    assert datamodule.category == "mono"


def test_there_are_no_masks() -> None:
    datamodule = Elpv(max_train_images=4, max_test_images=4, eval_batch_size=4, num_workers=0)
    datamodule.setup()
    assert datamodule.task == TaskType.CLASSIFICATION
    batch = next(iter(datamodule.test_dataloader()))
    assert batch.image.shape == (4, 3, 300, 300)
    assert batch.gt_mask is None
    assert not datamodule.test_data.samples["has_mask"].any()


def test_validation_from_training_images() -> None:
    kinds = samples("val", val_split_mode="from_train", val_split_ratio=0.25, max_train_images=20)
    assert kinds.groupby("category").size().to_dict() == {"mono": 5, "poly": 5}


def test_name_does_not_depend_on_where_the_package_is() -> None:
    assert Elpv().name == "Elpv"


def test_unknown_category_lists_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"Unknown `category`: 'multi'.*mono, poly"):
        Elpv(category="multi")


@pytest.mark.parametrize(("argument", "value"), [("max_train_images", 0), ("max_test_images", 1)])
def test_a_cap_that_leaves_nothing_is_an_error(argument: str, value: int) -> None:
    with pytest.raises(ValueError, match=f"`{argument}` is {value}; give at least"):
        Elpv(**{argument: value})  # type: ignore[arg-type]


def test_missing_package_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "elpv_dataset", None)
    with pytest.raises(ImportError, match=r"pip install 'anomalib-crad\[quickstart\]'"):
        Elpv()
