# SPDX-License-Identifier: Apache-2.0

"""Equal shares of the categories in every epoch, one order for all processes, and batches that do not mix masks."""

from __future__ import annotations

import itertools
from collections import Counter
from typing import TYPE_CHECKING

import pytest
import torch
from anomalib.data import Folder, MVTecAD
from lightning.fabric.utilities.distributed import DistributedSamplerWrapper
from lightning.pytorch.overrides.distributed import UnrepeatedDistributedSamplerWrapper
from made_up_images import make_category
from torch import distributed
from torch.utils.data import DistributedSampler, SequentialSampler

from anomalib_crad.data.multi_category import MultiCategory
from anomalib_crad.data.samplers import CategoryBalancedSampler, MaskBatchSampler

if TYPE_CHECKING:
    from pathlib import Path

    from anomalib.data import AnomalibDataset

CATEGORIES = ["a"] * 2 + ["b"] * 30 + ["c"] * 7


def shares(indices: list[int]) -> dict[str, int]:
    return dict(Counter(CATEGORIES[index] for index in indices))


def test_an_epoch_keeps_its_length_and_has_equal_shares() -> None:
    sampler = CategoryBalancedSampler(CATEGORIES)
    indices = list(sampler)
    assert len(indices) == len(sampler) == len(CATEGORIES)
    assert shares(indices) == {"a": 13, "b": 13, "c": 13}


def test_a_rest_goes_to_categories_by_chance() -> None:
    categories = ["a", "b", "b", "b"] * 2 + ["c"] * 2
    counts = [Counter(categories[index] for index in CategoryBalancedSampler(categories)) for _ in range(30)]
    assert all(sorted(count.values()) == [3, 3, 4] for count in counts)
    assert {max(count, key=count.__getitem__) for count in counts} == {"a", "b", "c"}


def test_images_of_one_category_are_drawn_as_often_as_each_other() -> None:
    drawn = Counter(CategoryBalancedSampler(CATEGORIES))
    assert sorted(drawn[index] for index in range(2)) == [6, 7]
    assert all(drawn[index] <= 1 for index in range(2, 32))
    assert all(drawn[index] in {1, 2} for index in range(32, 39))


def test_every_image_of_a_large_category_has_its_turn() -> None:
    sampler = CategoryBalancedSampler(CATEGORIES)
    assert {index for _ in range(40) for index in sampler} == set(range(len(CATEGORIES)))


def test_categories_are_mixed() -> None:
    order = [CATEGORIES[index] for index in CategoryBalancedSampler(CATEGORIES)]
    assert sum(first != second for first, second in itertools.pairwise(order)) > 10


def test_torchs_seed_repeats_it_and_epochs_differ() -> None:
    runs = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        sampler = CategoryBalancedSampler(CATEGORIES)
        runs.append([list(sampler), list(sampler)])
    assert runs[0] == runs[1] != runs[2]
    assert runs[0][0] != runs[0][1]


def test_one_category_is_a_plain_shuffle() -> None:
    assert sorted(CategoryBalancedSampler(["a"] * 5)) == list(range(5))


def test_no_images_is_an_error() -> None:
    with pytest.raises(ValueError, match="no images to draw from"):
        CategoryBalancedSampler([])


def test_processes_share_one_order_whatever_their_random_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distributed, "is_initialized", lambda: True)
    monkeypatch.setenv("PL_GLOBAL_SEED", "5")
    epochs = []
    for epoch in range(2):
        parts: list[int] = []
        for rank in range(3):
            torch.manual_seed(100 + rank)
            # what Lightning puts around a sampler that it does not know
            wrapped = DistributedSamplerWrapper(
                CategoryBalancedSampler(CATEGORIES), num_replicas=3, rank=rank, shuffle=False
            )
            wrapped.set_epoch(epoch)
            parts.extend(wrapped)
        assert shares(parts) == {"a": 13, "b": 13, "c": 13}
        epochs.append(parts)
    assert epochs[0] != epochs[1]


def test_batches_of_the_datamodule_are_balanced_or_not(tmp_path: Path) -> None:
    folders = [make_category(tmp_path, "cap", train=9), make_category(tmp_path, "nut", train=3)]
    base_args = {"root": folders[0].parent, "num_workers": 0}
    for balance, expected in (("image", {"cap": 9, "nut": 3}), ("category", {"cap": 6, "nut": 6})):
        datamodule = MultiCategory(
            base="MVTecAD",
            categories=["cap", "nut"],
            base_args=base_args,
            train_batch_size=5,
            balance=balance,  # type: ignore[arg-type]
        )
        datamodule.setup()
        batches = list(datamodule.train_dataloader())
        assert [len(batch) for batch in batches] == [5, 5, 2]
        seen = [str(path).split("/")[-4] for batch in batches for path in batch.image_path]
        assert Counter(seen) == expected


def test_unknown_balance_is_an_error() -> None:
    with pytest.raises(ValueError, match="`balance` is 'weight'; choose 'image' or 'category'"):
        MultiCategory(base="BTech", balance="weight")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("has_mask", "expected"),
    [
        ([True] * 5, [[0, 1], [2, 3], [4]]),
        ([True, True, True, False, False], [[0, 1], [2], [3, 4]]),
        ([True, False, True], [[0], [1], [2]]),
        ([], []),
    ],
)
def test_batches_end_where_the_kind_changes(has_mask: list[bool], expected: list[list[int]]) -> None:
    sampler = MaskBatchSampler(SequentialSampler(has_mask), batch_size=2, has_mask=has_mask)
    assert list(sampler) == expected
    assert len(sampler) == len(expected)


@pytest.fixture
def mixed(tmp_path: Path) -> AnomalibDataset:
    """Four test images with masks, then four without."""
    cap, nut = (make_category(tmp_path, name) for name in ("cap", "nut"))
    merged = MultiCategory([
        MVTecAD(root=cap.parent, category="cap"),
        Folder("nut", "train/good", nut, "test/scratch", "test/good", val_split_mode="same_as_test"),
    ])
    merged.setup()
    return merged.test_data


def test_it_finds_the_masks_of_a_datasets_samples(mixed: AnomalibDataset) -> None:
    """Lightning passes just these three where it cannot see how the sampler was made."""
    assert list(MaskBatchSampler(SequentialSampler(mixed), batch_size=3, drop_last=False)) == [
        [0, 1, 2],
        [3],
        [4, 5, 6],
        [7],
    ]


@pytest.mark.parametrize("rank", [0, 1])
def test_each_of_several_processes_has_whole_batches_of_its_part(mixed: AnomalibDataset, rank: int) -> None:
    sampler = DistributedSampler(mixed, num_replicas=2, rank=rank, shuffle=False)  # type: ignore[var-annotated]
    assert list(MaskBatchSampler(sampler, batch_size=3)) == [[rank, rank + 2], [rank + 4, rank + 6]]


def test_a_sampler_that_hides_its_dataset_is_a_plain_error(mixed: AnomalibDataset) -> None:
    hidden = UnrepeatedDistributedSamplerWrapper(SequentialSampler(mixed), num_replicas=2, rank=0)
    with pytest.raises(TypeError, match=r"Cannot tell from a Unrepeated.* Give the trainer or engine the datamodule"):
        MaskBatchSampler(hidden, batch_size=3)


def test_no_image_is_ever_dropped() -> None:
    with pytest.raises(ValueError, match="`drop_last` must be False"):
        MaskBatchSampler(SequentialSampler([True]), 1, [True], drop_last=True)
