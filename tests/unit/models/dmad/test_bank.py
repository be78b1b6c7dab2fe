# SPDX-License-Identifier: Apache-2.0

"""Banks: what a stream leaves in them, their bounds, their search and their checkpoints."""

from __future__ import annotations

import pytest
import torch

from anomalib_crad.models.dmad import bank as bank_module
from anomalib_crad.models.dmad.bank import MemoryBank, RandomProjection, StreamingCoreset, representative
from anomalib_crad.models.dmad.memory import greedy_coreset


def stream(patches: torch.Tensor, batch: int = 16, **arguments: float) -> torch.Tensor:
    coreset = StreamingCoreset(len(patches), **arguments)  # type: ignore[arg-type]
    for part in patches.split(batch):
        coreset.add(part)
    return coreset.finish()


def radius(patches: torch.Tensor, entries: torch.Tensor) -> float:
    """How far the patch is that the entries represent worst."""
    return torch.cdist(patches, entries).min(dim=1).values.max().item()


def clusters(count: int = 1200) -> torch.Tensor:
    torch.manual_seed(0)
    return 10 * torch.randn(12, 8).repeat(count // 12, 1) + torch.randn(count, 8)


def test_one_chunk_is_the_release_s_choice() -> None:
    patches = clusters()
    torch.manual_seed(5)
    chosen = stream(patches)
    torch.manual_seed(5)
    expected = patches[greedy_coreset(patches, 24, torch.randperm(1200)[:10])]
    assert torch.equal(chosen, expected)


def test_chunks_share_the_ratio_and_represent_all() -> None:
    patches = clusters()
    whole, chunked = stream(patches, ratio=0.05), stream(patches, ratio=0.05, chunk_size=100)
    assert len(chunked) == len(whole) == 60
    assert radius(patches, chunked) < 1.5 * radius(patches, whole)
    assert radius(patches, chunked) < radius(patches, patches[torch.randperm(1200)[:60]])


def test_a_later_chunk_adds_what_is_new() -> None:
    """The second half repeats the first but for one patch."""
    first = clusters(600)
    second = first.clone()
    second[300] += 100
    chosen = stream(torch.cat([first, second]), ratio=0.02, chunk_size=600)
    assert (chosen == second[300]).all(dim=1).any()


def test_a_cap_is_spread_over_the_whole_stream() -> None:
    patches = torch.arange(1000.0).unsqueeze(1).repeat(1, 4)
    chosen = stream(patches, ratio=0.5, max_entries=20, chunk_size=50)
    assert len(chosen) == 20
    assert (chosen[:, 0] < 500).sum() == 10


@pytest.mark.parametrize("batch", [1, 16, 5000])
def test_memory_is_bounded_by_the_chunk(batch: int, monkeypatch: pytest.MonkeyPatch) -> None:
    held = []

    class Recording(RandomProjection):
        def __call__(self, patches: torch.Tensor) -> torch.Tensor:
            held.append(len(patches))
            return super().__call__(patches)

    monkeypatch.setattr(bank_module, "RandomProjection", Recording)
    assert len(stream(clusters(), batch=batch, chunk_size=100)) == 24
    assert held == [100] * 12


def test_few_patches_leave_one_entry() -> None:
    assert len(stream(torch.rand(7, 4))) == 1


def test_a_stream_may_bring_fewer_patches_or_more_than_expected() -> None:
    for expected, count in [(10_000, 24), (300, 24)]:
        coreset = StreamingCoreset(expected, max_entries=24 if expected < 1200 else None)
        coreset.add(clusters())
        assert len(coreset.finish()) <= count


def test_a_stream_without_patches_is_an_error() -> None:
    with pytest.raises(ValueError, match="no patch to choose from"):
        StreamingCoreset(10).finish()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"ratio": 0.0}, "coreset_ratio must be greater than 0 and at most 1, got 0.0"),
        ({"ratio": 1.5}, "got 1.5"),
        ({"max_entries": 0}, "bank_size must be at least 1 entry, or None for no limit, got 0"),
        ({"chunk_size": 0}, "chunk_size must be at least 1"),
    ],
)
def test_arguments_are_checked(arguments: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        StreamingCoreset(100, **arguments)  # type: ignore[arg-type]


def test_wide_patches_are_projected_and_narrow_ones_are_not() -> None:
    assert RandomProjection(torch.rand(1, 300))(torch.rand(5, 300)).shape == (5, 128)
    narrow = torch.rand(5, 100)
    assert RandomProjection(narrow)(narrow) is narrow


def test_representatives_of_a_few_are_all() -> None:
    assert representative(torch.rand(5, 3), 5).tolist() == [0, 1, 2, 3, 4]
    assert len(representative(torch.rand(50, 300), 5).unique()) == 5


def test_entries_of_the_same_image_are_no_neighbours() -> None:
    bank = MemoryBank(1)
    bank.fill(torch.tensor([[0.0], [1.0], [5.0], [9.0]]), torch.tensor([0, 0, 1, -1]))
    patches, images = torch.tensor([[0.0], [1.0], [5.0]]), torch.tensor([0, 0, 1])
    assert bank.nearest(patches).tolist() == [0, 1, 2]
    assert bank.nearest(patches, images).tolist() == [2, 2, 1]


def test_where_there_is_no_other_image_an_entry_of_the_same_is_better_than_none() -> None:
    bank = MemoryBank(1)
    bank.fill(torch.tensor([[0.0], [1.0]]), torch.tensor([0, 0]))
    assert bank.nearest(torch.tensor([[0.9]]), torch.tensor([0])).tolist() == [1]


def test_a_bank_takes_over_the_size_of_what_it_loads() -> None:
    trained, bank = MemoryBank(4), MemoryBank(4)
    trained.fill(torch.rand(7, 4), torch.arange(7))
    bank.fill(torch.rand(3, 4))
    bank.load_state_dict(trained.state_dict())
    assert len(bank) == 7
    assert torch.equal(bank.entries, trained.entries)
    assert torch.equal(bank.images, trained.images)


def test_patches_of_another_width_do_not_load() -> None:
    with pytest.raises(RuntimeError, match="size mismatch for entries"):
        MemoryBank(4).load_state_dict(MemoryBank(5).state_dict())


def test_entries_follow_the_bank_to_another_type() -> None:
    bank = MemoryBank(4).bfloat16()
    bank.fill(torch.rand(3, 4))
    assert (bank.entries.dtype, bank.images.dtype) == (torch.bfloat16, torch.long)
