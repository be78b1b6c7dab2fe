# SPDX-License-Identifier: Apache-2.0

"""Entries are mixed as PyTorch's own attention mixes them, whatever the size of features and entries."""

from __future__ import annotations

import torch
from torch.nn import functional

from anomalib_crad.models.crad.discrete_memory import AttentionEntries


def entries(out_dim: int = 6, num_entries: int = 16) -> AttentionEntries:
    torch.manual_seed(0)
    attention = AttentionEntries(out_dim, num_entries)
    torch.nn.init.normal_(attention.values)
    return attention


def test_it_is_scaled_dot_product_attention_of_vectors_of_one_size() -> None:
    attention = entries()
    queries = torch.randn(2, 40, 6)
    table = attention.values.squeeze(0).T.expand(2, -1, -1)

    def of_one_size(vectors: torch.Tensor) -> torch.Tensor:
        return vectors / vectors.square().mean(dim=-1, keepdim=True).sqrt()

    expected = functional.scaled_dot_product_attention(of_one_size(queries), of_one_size(table), table)
    torch.testing.assert_close(attention(queries), expected)


def test_the_size_of_a_feature_does_not_sharpen_the_mixture() -> None:
    attention = entries()
    queries = torch.randn(40, 6)
    torch.testing.assert_close(attention(queries * 100), attention(queries))


def test_the_most_similar_entry_counts_most() -> None:
    attention = entries()
    weights = attention.weights(attention.values.squeeze(0).T * 0.3)
    assert torch.equal(weights.argmax(dim=1), torch.arange(16))


def test_every_entry_learns_from_every_feature() -> None:
    attention = entries()
    attention(torch.randn(1, 6)).square().sum().backward()
    assert attention.values.grad is not None
    assert attention.values.grad.any(dim=1).all()


def test_a_feature_of_zeros_gets_the_mean_entry() -> None:
    attention = entries()
    torch.testing.assert_close(attention(torch.zeros(1, 6))[0], attention.values.squeeze(0).mean(dim=1))
