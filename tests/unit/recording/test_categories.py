# SPDX-License-Identifier: Apache-2.0

"""Where the category of an image comes from."""

from types import SimpleNamespace

import pandas as pd
import pytest
import torch
from torch.utils.data import ConcatDataset, DataLoader, Subset, TensorDataset

from anomalib_crad.recording import CategoryLookup


class Frame(TensorDataset):
    """A dataset of which only the frame and the own category matter."""

    def __init__(self, samples: pd.DataFrame, category: str | None = None) -> None:
        super().__init__(torch.zeros(len(samples)))
        self.samples = samples
        self.category = category


def make_dataset(categories: dict[str, str | None] | list[str], category: str | None = None) -> Frame:
    samples = pd.DataFrame({"image_path": list(categories)})
    if isinstance(categories, dict):
        samples["category"] = list(categories.values())
    return Frame(samples, category)


@pytest.mark.parametrize("wrap", [lambda dataset: dataset, lambda dataset: Subset(dataset, [1, 0])])
def test_the_column_of_the_samples_wins(wrap: type) -> None:
    dataset = make_dataset({"a/1.png": "a", "b/1.png": "b", "c/1.png": None}, category="own")
    lookup = CategoryLookup(DataLoader(wrap(dataset)), SimpleNamespace(category="module"))
    assert [lookup(f"{name}/1.png") for name in "abc"] == ["a", "b", "own"]
    assert lookup("unknown.png") == "module"


def test_each_dataset_of_a_concatenation_keeps_its_category() -> None:
    lookup = CategoryLookup(DataLoader(ConcatDataset([make_dataset(["1.png"], "a"), make_dataset({"2.png": "b"})])))
    assert [lookup(path) for path in ("1.png", "2.png", "3.png", "")] == ["a", "b", "all", "all"]


@pytest.mark.parametrize(("category", "expected"), [("bottle", "bottle"), ("", "all"), (["a", "b"], "all")])
def test_the_datamodule_is_asked_last(category: object, expected: str) -> None:
    dataloader = DataLoader(make_dataset(["1.png"]))
    assert CategoryLookup(dataloader, SimpleNamespace(category=category))("1.png") == expected


def test_any_other_iterable_is_one_category() -> None:
    assert CategoryLookup([object()])("1.png") == "all"
    assert CategoryLookup(SimpleNamespace(dataset=SimpleNamespace(samples=[1, 2])))("1.png") == "all"


def test_images_are_counted_by_the_category_that_they_are_looked_up_as() -> None:
    dataset = make_dataset({"a/1.png": "a", "a/2.png": "a", "b/1.png": "b", "c/1.png": None})
    lookup = CategoryLookup(DataLoader(dataset), SimpleNamespace(category="a"))
    assert lookup.counts == {"a": 3, "b": 1}
    assert lookup("c/1.png") == "a"


def test_a_category_that_is_trained_but_not_in_the_dataset_counts_zero() -> None:
    datamodule = SimpleNamespace(train_data=make_dataset({"a/0.png": "a", "b/0.png": "b", "x/0.png": None}))
    counts = CategoryLookup(DataLoader(make_dataset({"a/1.png": "a"})), datamodule).counts
    assert dict(counts) == {"a": 1, "b": 0}


def test_a_dataset_without_frame_counts_nothing() -> None:
    assert not CategoryLookup([object()]).counts
