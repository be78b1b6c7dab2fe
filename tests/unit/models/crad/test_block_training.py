# SPDX-License-Identifier: Apache-2.0

"""The training pass of a block on a CPU against the plain modules, and when it is used."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

import pytest
import torch
from torch import nn

from anomalib_crad.models.crad.block_training import batch_statistics
from anomalib_crad.models.crad.fusion import InvertedResidual

if TYPE_CHECKING:
    from collections.abc import Callable


def plainly(block: InvertedResidual, features: torch.Tensor) -> torch.Tensor:
    """Run a block's modules one after the other."""
    return features + block.project(block.depthwise(block.expand(features)))


def outcome(
    block: InvertedResidual, run: Callable[[InvertedResidual, torch.Tensor], torch.Tensor], features: torch.Tensor
) -> dict[str, torch.Tensor]:
    """Output, gradients and running statistics of one training step without an optimizer."""
    block, features = copy.deepcopy(block), features.clone().requires_grad_()
    output = run(block, features)
    output.backward(torch.cos(torch.arange(output.numel(), dtype=output.dtype)).view_as(output))
    assert features.grad is not None
    gradients = {name: value.grad for name, value in block.named_parameters() if value.grad is not None}
    return {"output": output.detach(), "input": features.grad, **gradients, **dict(block.named_buffers())}


def used(block: InvertedResidual, features: torch.Tensor) -> bool:
    return type(block(features).grad_fn).__name__ == "InvertedResidualTrainingBackward"


@pytest.fixture
def block() -> InvertedResidual:
    """A block whose norms are no identities and whose gates are of all kinds: closed, open and between."""
    torch.manual_seed(0)
    block = InvertedResidual(6, 20)
    for value in block.parameters():
        nn.init.normal_(value, std=1.0)
    return block.double().train()


def test_it_gives_what_the_modules_give(block: InvertedResidual) -> None:
    features = torch.randn(3, 6, 5, 4, dtype=torch.float64)

    ours, plain = outcome(block, lambda module, values: module(values), features), outcome(block, plainly, features)

    assert used(block, features)
    assert ours.keys() == plain.keys()
    for name, value in plain.items():
        # PyTorch's own gradient of hard sigmoid holds 1 / 6 in single precision.
        torch.testing.assert_close(ours[name], value, rtol=1e-6, atol=1e-6, msg=name)


def test_it_gives_what_the_modules_give_in_single_precision_and_channels_last(block: InvertedResidual) -> None:
    features = torch.randn(3, 6, 5, 4).contiguous(memory_format=torch.channels_last)

    ours = outcome(block.float(), lambda module, values: module(values), features)

    for name, value in outcome(block, plainly, features).items():
        torch.testing.assert_close(ours[name], value, rtol=1e-3, atol=1e-4, msg=name)


def test_statistics_are_those_of_the_batch_far_from_zero_too() -> None:
    torch.manual_seed(0)
    values = 100 + torch.randn(4, 3, 8, 8)

    statistics = batch_statistics(values)

    variance, mean = torch.var_mean(values.double(), dim=(0, 2, 3), correction=0)
    torch.testing.assert_close(statistics.mean.double(), mean, rtol=1e-6, atol=0)
    torch.testing.assert_close(statistics.variance.double(), variance, rtol=1e-2, atol=0)


def test_it_is_used_in_training_on_a_cpu_alone(block: InvertedResidual) -> None:
    features = torch.randn(2, 6, 4, 4, dtype=torch.float64)
    assert used(block, features)

    with torch.autocast("cpu", torch.bfloat16):
        assert not used(block, features)
    with torch.no_grad():
        assert not used(block, features)
    assert not used(copy.deepcopy(block).eval(), features)
    assert not used(nn.SyncBatchNorm.convert_sync_batchnorm(copy.deepcopy(block)).eval(), features)


def test_all_of_a_block_learns(block: InvertedResidual) -> None:
    block(torch.randn(2, 6, 4, 4, dtype=torch.float64)).square().sum().backward()

    assert all(value.grad is not None and value.grad.abs().sum() > 0 for value in block.parameters())
