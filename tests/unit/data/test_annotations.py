# SPDX-License-Identifier: Apache-2.0

"""The choice of annotated images, and what it leaves of the subsets."""

from __future__ import annotations

import random

import pandas as pd
import pytest

from anomalib_crad.data.annotations import choose_annotated, move_annotated

PATHS = {
    "bottle": [f"{kind}/{number:03}.png" for kind in ("broken", "cracked") for number in range(12)],
    "cable": [f"bent/{number:03}.png" for number in range(7)],
}


def frame(split: str, counts: dict[str, tuple[int, int]], mask: str | None = "mask.png") -> pd.DataFrame:
    """Rows of normal and anomalous images of each category."""
    rows = [
        {
            "image_path": f"root/{category}/{split}/{'good' if label == 0 else 'scratch'}/{number:03}.png",
            "split": split,
            "label_index": label,
            "mask_path": mask if label else None,
            "category": category,
            "has_mask": True,
        }
        for category, both in counts.items()
        for label, count in enumerate(both)
        for number in range(count)
    ]
    return pd.DataFrame(rows)


@pytest.fixture
def subsets() -> dict[str, pd.DataFrame]:
    counts = {"blue": (3, 6), "green": (2, 4)}
    train, test = frame("train", {"blue": (5, 0), "green": (4, 0)}), frame("test", counts)
    train.attrs["task"] = "segmentation"
    return {"train": train, "val": test.copy(), "test": test}


def test_the_choice_is_the_field_s() -> None:
    """Sorted, shuffled by the module's own generator after its seed was set, cut."""
    for category, paths in PATHS.items():
        expected = sorted(paths)
        random.seed(0)
        random.shuffle(expected)
        assert choose_annotated(PATHS, 5)[category] == expected[:5]


def test_the_order_of_the_paths_and_the_other_categories_do_not_matter() -> None:
    turned = {category: list(reversed(PATHS[category])) for category in reversed(PATHS)}
    assert choose_annotated(turned, 5) == choose_annotated(PATHS, 5)
    assert choose_annotated({"cable": PATHS["cable"]}, 5)["cable"] == choose_annotated(PATHS, 5)["cable"]


def test_one_is_in_five_and_five_are_in_ten() -> None:
    one, five, ten = (choose_annotated(PATHS, count)["bottle"] for count in (1, 5, 10))
    assert five[:1] == one
    assert ten[:5] == five


def test_another_seed_chooses_others() -> None:
    assert choose_annotated(PATHS, 5, seed=1) != choose_annotated(PATHS, 5, seed=0)


def test_a_category_with_fewer_gives_all() -> None:
    assert sorted(choose_annotated(PATHS, 10)["cable"]) == PATHS["cable"]
    assert choose_annotated(PATHS, 0) == {"bottle": [], "cable": []}


def test_other_random_numbers_are_left_alone() -> None:
    random.seed(3)
    state = random.getstate()
    choose_annotated(PATHS, 5)
    assert random.getstate() == state


def test_a_negative_number_is_an_error() -> None:
    with pytest.raises(ValueError, match="annotated_per_category must be at least 0, got -1"):
        choose_annotated(PATHS, -1)


def test_chosen_images_are_in_training_and_nowhere_else(subsets: dict[str, pd.DataFrame]) -> None:
    split = move_annotated(subsets, 2)
    moved = split.samples["train"].iloc[9:]
    assert moved["category"].tolist() == ["blue", "blue", "green", "green"]
    assert (moved["label_index"] == 1).all()
    assert (moved["split"] == "train").all()
    assert moved["mask_path"].tolist() == ["mask.png"] * 4
    for name in ("val", "test"):
        assert len(split.samples[name]) == 15 - 4
        assert not split.samples[name]["image_path"].isin(moved["image_path"]).any()
        assert split.samples[name].index.tolist() == list(range(11))
    assert split.annotated == choose_annotated(
        {"blue": [f"scratch/{n:03}.png" for n in range(6)], "green": [f"scratch/{n:03}.png" for n in range(4)]}, 2
    )


def test_what_was_given_stays_as_it_was(subsets: dict[str, pd.DataFrame]) -> None:
    before = {name: samples.copy() for name, samples in subsets.items()}
    split = move_annotated(subsets, 2)
    for name, samples in before.items():
        pd.testing.assert_frame_equal(subsets[name], samples)
    assert split.samples["train"].attrs == {"task": "segmentation"}


def test_without_annotated_images_nothing_moves(subsets: dict[str, pd.DataFrame]) -> None:
    split = move_annotated(subsets, 0)
    for name, samples in subsets.items():
        pd.testing.assert_frame_equal(split.samples[name], samples)
    assert split.annotated == {"blue": [], "green": []}


def test_a_data_set_may_have_no_validation_set(subsets: dict[str, pd.DataFrame]) -> None:
    del subsets["val"]
    assert set(move_annotated(subsets, 2).samples) == {"train", "test"}


@pytest.mark.parametrize("mask", [None, ""])
def test_an_image_without_a_mask_is_refused(mask: str | None) -> None:
    subsets = {"train": frame("train", {"blue": (5, 0)}), "test": frame("test", {"blue": (3, 6)}, mask)}
    with pytest.raises(
        ValueError, match=r"2 of 2 images .* have no mask, such as '.*png'.*annotated_per_category to 0"
    ):
        move_annotated(subsets, 2)
    assert move_annotated(subsets, 0).annotated == {"blue": []}


def test_images_that_the_list_could_not_name_are_refused() -> None:
    test = frame("test", {"blue": (3, 2)})
    test["image_path"] = [*test["image_path"][:4], "other/blue/test/scratch/000.png"]
    with pytest.raises(ValueError, match="cannot be told apart by folder and file name"):
        move_annotated({"train": frame("train", {"blue": (5, 0)}), "test": test}, 1)
