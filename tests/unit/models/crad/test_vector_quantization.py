# SPDX-License-Identifier: Apache-2.0

"""The nearest entry is read, and entries move to the features that they stand for."""

from __future__ import annotations

import torch
from torch.nn import functional

from anomalib_crad.models.crad.discrete_memory import VectorQuantizedEntries


def entries(out_dim: int = 6, num_entries: int = 16) -> VectorQuantizedEntries:
    torch.manual_seed(0)
    quantization = VectorQuantizedEntries(out_dim, num_entries)
    torch.nn.init.normal_(quantization.values)
    return quantization


def codebook_loss(quantization: VectorQuantizedEntries, queries: torch.Tensor) -> torch.Tensor:
    values, loss = quantization.read(queries)
    assert torch.equal(values, quantization(queries))
    assert loss is not None
    return loss


def test_the_nearest_entry_is_read() -> None:
    quantization = entries()
    queries = torch.randn(5, 40, 6) * 3
    table = quantization.values.squeeze(0).T
    nearest = torch.cdist(queries.flatten(0, 1), table).argmin(dim=1)
    torch.testing.assert_close(quantization(queries), table[nearest].view_as(queries))


def test_an_entry_is_read_as_itself() -> None:
    quantization = entries()
    table = quantization.values.squeeze(0).T
    assert torch.equal(quantization(table), table)


def test_what_is_large_and_wide_fits_into_half_precision() -> None:
    """Lengths and products of whole feature maps are far above the largest half."""
    quantization = VectorQuantizedEntries(out_dim=20_000, num_entries=3).half()
    sizes = torch.tensor([15.0, 20.0, 25.0], dtype=torch.float16)
    with torch.no_grad():
        quantization.values.copy_(sizes)
    queries = (sizes + torch.tensor([1.0, -1.0, 1.0])).half().unsqueeze(-1).expand(3, 20_000)
    assert torch.equal(quantization.weights(queries).float(), torch.eye(3))


def test_the_loss_is_the_mean_squared_distance_to_the_nearest_entry() -> None:
    quantization = entries()
    queries = torch.randn(40, 6)
    distances = torch.cdist(queries, quantization.values.squeeze(0).T).min(dim=1).values
    torch.testing.assert_close(codebook_loss(quantization, queries), distances.square().sum() / (40 * 6))


def test_both_losses_reach_the_entries_that_are_read_and_no_others() -> None:
    quantization = entries()
    queries = torch.randn(3, 6)
    read = quantization.weights(queries).sum(dim=0).bool()
    assert not read.all()
    for loss in (codebook_loss(quantization, queries), quantization(queries).square().sum()):
        (gradient,) = torch.autograd.grad(loss, quantization.values)
        assert torch.equal(gradient.squeeze(0).any(dim=0), read)


def test_entries_settle_on_the_clusters_of_the_features() -> None:
    torch.manual_seed(0)
    centres = torch.tensor([[4.0, 4.0], [4.0, -4.0], [-4.0, 4.0], [-4.0, -4.0]])
    queries = (centres.repeat(25, 1) + 0.1 * torch.randn(100, 2)).unsqueeze(0)
    quantization = VectorQuantizedEntries(out_dim=2, num_entries=8)
    optimizer = torch.optim.AdamW([quantization.values], lr=0.1)
    for _ in range(100):
        optimizer.zero_grad()
        codebook_loss(quantization, queries).backward()
        optimizer.step()
    assert functional.mse_loss(quantization(queries), queries).item() < 0.1
