# SPDX-License-Identifier: Apache-2.0

"""From a class name, categories and shared arguments to datamodules: which categories, and every plain error."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import anomalib.data
import pytest
from anomalib.data import AnomalibDataModule, Folder, MVTecAD
from made_up_sets import make_folder
from torchvision.transforms.v2 import Resize

from anomalib_crad.data.mvtec import MVTec
from anomalib_crad.data.sources.categories import category_datamodules

if TYPE_CHECKING:
    from pathlib import Path


def names(base: str | type[AnomalibDataModule], categories: Any = "all", **base_args: Any) -> list[str]:  # noqa: ANN401
    cls = getattr(anomalib.data, base) if isinstance(base, str) else base
    return [each.category or each.name for each in category_datamodules(cls, categories, base_args)]


@pytest.mark.parametrize(
    ("base", "number", "some"),
    [
        ("AutoVI", 6, {"engine_wiring"}),
        ("BMAD", 6, {"Brain", "Liver"}),
        ("BTech", 3, {"01", "02", "03"}),
        ("Kaputt", 10, {"book_other"}),
        ("Kolektor", 1, {"Kolektor"}),
        ("MPDD", 6, {"bracket_black", "tubes"}),
        ("MVTecAD", 15, {"bottle", "zipper"}),
        ("MVTecAD2", 8, {"can", "walnuts"}),
        ("MVTecLOCO", 5, {"breakfast_box", "screw_bag"}),
        ("RealIAD", 30, {"audiojack", "zipper"}),
        ("VAD", 1, {"vad"}),
        ("Visa", 12, {"candle", "pipe_fryum"}),
    ],
)
def test_all_is_what_anomalib_names(base: str, number: int, some: set[str]) -> None:
    found = names(base)
    assert len(found) == len(set(found)) == number
    assert some <= set(found)


def test_shared_arguments_and_the_own_category_reach_each_datamodule() -> None:
    shared = {"root": "/x", "val_split_mode": "from_test", "val_split_ratio": 0.3, "seed": 7, "train_batch_size": 5}
    for each, name in zip(category_datamodules(MVTecAD, ["tile", "bottle"], shared), ("tile", "bottle"), strict=True):
        assert isinstance(each, MVTecAD)
        assert (each.category, str(each.root), each.val_split_mode, each.seed) == (name, "/x", "from_test", 7)
        assert each.val_split_ratio == pytest.approx(0.3)
        assert each.train_batch_size == 5


@pytest.mark.parametrize("categories", ["pcb1", ["pcb1"], ("pcb1",)])
def test_categories_are_a_name_or_any_kind_of_list(categories: object) -> None:
    assert names("Visa", categories) == ["pcb1"]


def test_numbers_that_yaml_made_of_names_are_names_again() -> None:
    assert names("BTech", [1, 3]) == ["01", "03"]
    assert names("BTech", ["02"]) == ["02"]
    with pytest.raises(ValueError, match=r"Unknown `categories`: '4'.*01, 02, 03"):
        names("BTech", [4])


def test_folders_in_the_layout_of_the_base_are_categories_beside_its_own(tmp_path: Path) -> None:
    (tmp_path / "cap" / "train" / "good").mkdir(parents=True)
    (tmp_path / "notes").mkdir()
    assert names("MVTecAD", ["cap", "tile"], root=tmp_path) == ["cap", "tile"]
    assert "cap" not in names("MVTecAD", root=tmp_path)
    with pytest.raises(ValueError, match=r"Unknown `categories`: 'notes'.*bottle, .*zipper, cap\.$"):
        names("MVTecAD", ["notes"], root=tmp_path)


def test_unknown_empty_and_repeated_categories_are_errors() -> None:
    with pytest.raises(ValueError, match=r"Unknown `categories`: 'canlde'. Known to Visa and root='.*': candle, "):
        names("Visa", ["canlde"])
    with pytest.raises(ValueError, match="`categories` is empty"):
        names("Visa", [])
    with pytest.raises(ValueError, match="`categories` names a category twice"):
        names("Visa", ["pcb1", "pcb1"])


class NoNames(AnomalibDataModule):
    """A user's own datamodule that names no categories."""

    def __init__(self, root: str, category: str, num_workers: int = 0) -> None:
        super().__init__(train_batch_size=1, eval_batch_size=1, num_workers=num_workers)
        self.root = root
        self.category = category

    def _setup(self, _stage: str | None = None) -> None:
        """Not needed here."""


def test_a_class_that_names_no_categories_has_the_folders_of_its_root(tmp_path: Path) -> None:
    for name in ("b", "a"):
        (tmp_path / name / "train").mkdir(parents=True)
    assert names(NoNames, root=tmp_path) == ["a", "b"]
    with pytest.raises(ValueError, match=r"NoNames names no categories, and root='.*empty' holds none"):
        names(NoNames, root=tmp_path / "empty")


def test_our_own_datamodules_can_be_bases_too() -> None:
    assert names(MVTec, ["tile", "bottle"]) == ["tile", "bottle"]


def test_wrong_argument_names_the_known_ones() -> None:
    with pytest.raises(
        ValueError, match=r"Visa takes no `rot`, `sed` \(`base_args`\). It takes: root, train_b"
    ) as error:
        names("Visa", rot="/x", sed=1)
    assert "category" not in str(error.value)
    assert "augmentations" not in str(error.value)


def test_category_and_augmentations_have_their_own_places() -> None:
    with pytest.raises(ValueError, match=r"`category` in `base_args` .* choose these with `categories`"):
        names("Visa", category="pcb1")
    with pytest.raises(ValueError, match=r"`name` in `base_args` .* choose these with `categories`"):
        names("Folder", name="cap", root="/x", normal_dir="good")
    with pytest.raises(ValueError, match=r"`augmentations` in `base_args` .* give it to MultiCategory"):
        names("Visa", augmentations=Resize((8, 8)))


def test_missing_argument_is_named() -> None:
    with pytest.raises(ValueError, match="Folder needs `normal_dir` in `base_args`"):
        names("Folder", root="/x")


def test_value_that_the_class_rejects_is_an_error_with_its_name() -> None:
    with pytest.raises(ValueError, match=r"Visa rejects its `base_args`: 'sometimes' is not a valid ValSplitMode"):
        names("Visa", val_split_mode="sometimes")


def test_a_class_without_categories_is_one_category() -> None:
    samples = {"image_path": ["a.png"], "label_index": [0], "split": ["train"]}
    assert names("Tabular", name="table", samples=samples) == ["table"]
    with pytest.raises(ValueError, match=r"`categories` is \['a'\], but Kolektor has none to choose from"):
        names("Kolektor", ["a"])


def test_each_folder_of_the_root_is_a_category(tmp_path: Path) -> None:
    arguments = make_folder(tmp_path)
    (tmp_path / ".cache").mkdir()
    (tmp_path / "notes.txt").touch()
    assert names("Folder", **arguments) == ["cap", "nut", "pin"]
    assert names("Folder", ["pin", "cap"], **arguments) == ["pin", "cap"]
    with pytest.raises(ValueError, match=r"Unknown `categories`: 'bolt'. Known to root='.*': cap, nut, pin"):
        names("Folder", ["bolt"], **arguments)


def test_folders_that_a_product_lacks_are_left_out_for_it(tmp_path: Path) -> None:
    expected = {"cap": (["defective"], ["masks"]), "nut": (["defective"], None), "pin": (None, None)}
    for datamodule in category_datamodules(Folder, "all", make_folder(tmp_path)):
        assert isinstance(datamodule, Folder)
        assert datamodule.root == tmp_path / datamodule.name
        assert (datamodule.abnormal_dir, datamodule.mask_dir) == expected[datamodule.name]


@pytest.mark.parametrize("argument", ["abnormal_dir", "normal_test_dir", "mask_dir"])
def test_a_folder_that_no_product_has_is_an_error(tmp_path: Path, argument: str) -> None:
    arguments = {**make_folder(tmp_path), argument: "mispelt"}
    with pytest.raises(ValueError, match=f"`{argument}` in `base_args` is 'mispelt', which none of the categories"):
        names("Folder", **arguments)


def test_a_root_without_folders_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"root='.*' \(`base_args`\) holds no folders"):
        names("Folder", root=tmp_path, normal_dir="good")
    with pytest.raises(FileNotFoundError, match=r"none' \(`base_args`\) does not exist. It must hold one folder for"):
        names("Folder", root=tmp_path / "none", normal_dir="good")
    with pytest.raises(ValueError, match="Folder needs `root` in `base_args`: the folder that holds one folder for"):
        names("Folder", normal_dir="good")
    with pytest.raises(ValueError, match="Datumaro needs `root` in `base_args`"):
        names("Datumaro")
