# SPDX-License-Identifier: Apache-2.0

"""Codebooks: what is nearest, how codes follow tokens, how they die, several processes, and the transport cost."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch
from torch import distributed, multiprocessing

from anomalib_crad.models.hvq_trans.quantization import Codebooks, nearest_codes, transport_cost

if TYPE_CHECKING:
    from pathlib import Path

PROCESSES = 2


def started(num_experts: int = 1, num_codes: int = 4, dim: int = 3) -> Codebooks:
    """Codebooks whose codes are 4, 8, 12, ... in all numbers."""
    codebooks = Codebooks(num_experts, num_codes, dim)
    for expert in range(num_experts):
        codebooks.start(expert, 4.0 * torch.arange(1, num_codes + 1).unsqueeze(1).expand(-1, dim))
    return codebooks


def same_state(one: Codebooks, other: Codebooks) -> bool:
    return all(torch.equal(value, other.state_dict()[name]) for name, value in one.state_dict().items())


def test_the_nearest_code_is_that_at_the_smallest_distance() -> None:
    torch.manual_seed(0)
    tokens, codes = torch.randn(2, 30, 5), torch.randn(2, 9, 5)
    assert torch.equal(nearest_codes(tokens, codes), torch.cdist(tokens, codes).argmin(dim=-1))


def test_each_image_is_quantised_by_the_codes_of_its_expert() -> None:
    codebooks = Codebooks(num_experts=3, num_codes=7, dim=4).eval()
    values, indices = codebooks(torch.randn(2, 5, 4), torch.tensor([2, 0]))
    assert torch.equal(values[0], codebooks.codes[2][indices[0]])
    assert torch.equal(values[1], codebooks.codes[0][indices[1]])


def test_evaluation_moves_nothing() -> None:
    codebooks, before = started().eval(), started()
    codebooks(torch.randn(2, 5, 3), torch.tensor([0, 0]))
    assert same_state(codebooks, before)
    assert codebooks.codes_in_use().tolist() == [0]


def test_gradients_pass_as_if_nothing_had_been_replaced() -> None:
    tokens = torch.randn(2, 5, 3, requires_grad=True)
    weights = torch.randn(2, 5, 3)
    values = started().train()(tokens, torch.tensor([0, 0])).values
    (values * weights).sum().backward()
    assert tokens.grad is not None
    torch.testing.assert_close(tokens.grad, weights)


def test_a_code_moves_towards_the_mean_of_what_chose_it() -> None:
    codebooks = started(dim=1)
    codebooks.train()(torch.tensor([[[3.0], [5.5]]]), torch.tensor([0]))
    sizes = torch.tensor([0.99 + 0.02, 0.99, 0.99, 0.99])
    torch.testing.assert_close(codebooks.sizes[0], sizes)
    sums = torch.tensor([0.99 * 4 + 0.01 * 8.5, 0.99 * 8, 0.99 * 12, 0.99 * 16])
    torch.testing.assert_close(codebooks.sums[0, :, 0], sums)
    torch.testing.assert_close(codebooks.codes[0, :, 0], sums / sizes, rtol=1e-4, atol=0)
    assert codebooks.codes_in_use().tolist() == [1]
    codebooks.forget_choices()
    assert codebooks.codes_in_use().tolist() == [0]


def test_an_image_meets_codes_that_the_images_before_it_have_moved() -> None:
    together, apart = Codebooks(2, 6, 3), Codebooks(2, 6, 3)
    apart.load_state_dict(together.state_dict())
    tokens, experts = torch.randn(4, 10, 3), torch.tensor([1, 0, 1, 1])
    values = together.train()(tokens, experts).values
    for number in range(4):
        one = slice(number, number + 1)
        assert torch.equal(apart.train()(tokens[one], experts[one]).values, values[one])
    assert same_state(together, apart)


def test_an_expert_without_an_image_is_left_alone() -> None:
    codebooks = Codebooks(num_experts=2, num_codes=4, dim=3)
    before = {name: value.clone() for name, value in codebooks.state_dict().items()}
    codebooks.train()(torch.randn(3, 10, 3), torch.tensor([0, 0, 0]))
    for name, value in codebooks.state_dict().items():
        assert torch.equal(value[1], before[name][1]), name
        assert not torch.equal(value[0], before[name][0]), name
    assert codebooks.started().tolist() == [True, False]


def test_a_code_that_nothing_chooses_keeps_its_place_and_then_shrinks_to_zero() -> None:
    codebooks = started(num_codes=2, dim=2)
    tokens = torch.full((1, 6, 2), 4.0)
    for _ in range(100):
        codebooks.train()(tokens, torch.tensor([0]))
    torch.testing.assert_close(codebooks.codes[0, 1], torch.full((2,), 8.0), rtol=1e-3, atol=0)
    for _ in range(3000):
        codebooks(tokens, torch.tensor([0]))
    torch.testing.assert_close(codebooks.codes[0, 1], torch.zeros(2), rtol=0, atol=1e-3)
    torch.testing.assert_close(codebooks.codes[0, 0], torch.full((2,), 4.0), rtol=1e-3, atol=0)
    assert codebooks.state_dict()["codes"].isfinite().all()


def test_choices_are_no_part_of_a_checkpoint() -> None:
    assert set(Codebooks(1, 2, 3).state_dict()) == {"codes", "sizes", "sums"}


def test_half_precision_around_it_changes_nothing() -> None:
    plain, mixed = started(dim=8), started(dim=8)
    tokens, experts = torch.randn(2, 5, 8) * 8, torch.tensor([0, 0])
    expected = plain.train()(tokens, experts)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        values, indices = mixed.train()(tokens, experts)
    assert torch.equal(indices, expected.indices)
    assert torch.equal(values, expected.values)
    assert same_state(plain, mixed)


def batches() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    return torch.randn(2 * PROCESSES, 10, 3, generator=generator), torch.tensor([0, 1, 1, 0])


def learn_together(rank: int, folder: Path) -> None:
    """Learn from this process's half of the images, and write down what came out."""
    distributed.init_process_group(
        "gloo", init_method=f"file://{folder / 'rendezvous'}", rank=rank, world_size=PROCESSES
    )
    codebooks = started(num_experts=2, num_codes=6)
    tokens, experts = (part.chunk(PROCESSES)[rank] for part in batches())
    values, indices = codebooks.train()(tokens, experts)
    torch.save({"values": values, "indices": indices, "state": codebooks.state_dict()}, folder / f"{rank}.pt")
    distributed.destroy_process_group()


@pytest.mark.slow
def test_processes_learn_as_one_does_from_all_of_their_images(tmp_path: Path) -> None:
    multiprocessing.spawn(learn_together, args=(tmp_path,), nprocs=PROCESSES)
    codebooks = started(num_experts=2, num_codes=6)
    expected = codebooks.train()(*batches())
    results = [torch.load(tmp_path / f"{rank}.pt") for rank in range(PROCESSES)]
    assert torch.equal(torch.cat([result["values"] for result in results]), expected.values)
    assert torch.equal(torch.cat([result["indices"] for result in results]), expected.indices)
    for result in results:
        for name, value in codebooks.state_dict().items():
            torch.testing.assert_close(result["state"][name], value)


def test_transport_costs_nothing_to_codes_of_the_same_direction_and_two_to_opposite_ones() -> None:
    tokens = torch.tensor([[[1.0, 2.0]]])
    same, opposite = torch.tensor([[[2.0, 4.0], [0.1, 0.2]]]), torch.tensor([[[-1.0, -2.0]]])
    torch.testing.assert_close(transport_cost(tokens, same), torch.zeros(1, 1), rtol=0, atol=1e-6)
    torch.testing.assert_close(transport_cost(tokens, opposite), torch.full((1, 1), 2.0))


def test_transport_is_weighted_by_a_softmax_with_the_number_of_codes_as_temperature() -> None:
    tokens, codes = torch.tensor([[[2.0, 0.0]]]), torch.tensor([[[3.0, 0.0], [0.0, 1.0]]])
    share = torch.tensor([6.0 / 2, 0.0]).softmax(dim=0)
    torch.testing.assert_close(transport_cost(tokens, codes), share[1].reshape(1, 1))


def test_transport_is_finite_for_dead_codes_and_for_codes_that_were_thrown_far_away() -> None:
    codes = torch.stack([torch.zeros(4), torch.full((4,), 1e6), torch.full((4,), -1e6)]).unsqueeze(0)
    cost = transport_cost(torch.randn(1, 9, 4), codes)
    assert cost.isfinite().all()
    dead = transport_cost(torch.randn(1, 9, 4), torch.zeros(1, 3, 4))
    torch.testing.assert_close(dead, torch.ones(1, 9))
