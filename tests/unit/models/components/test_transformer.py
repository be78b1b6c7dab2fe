# SPDX-License-Identifier: Apache-2.0

"""Attention against PyTorch's own, and learned positions."""

from __future__ import annotations

import torch
from torch import nn

from anomalib_crad.models.components.transformer import Attention, PositionEmbedding
from anomalib_crad.models.uniad.transformer import neighbor_mask


def test_it_is_pytorchs_multi_head_attention() -> None:
    torch.manual_seed(0)
    ours, theirs = Attention(12, 3, dropout=0.0), nn.MultiheadAttention(12, 3, batch_first=True)
    projections = zip(theirs.in_proj_weight.chunk(3), theirs.in_proj_bias.chunk(3), strict=True)
    for layer, (weight, bias) in zip((ours.query, ours.key, ours.value), projections, strict=True):
        layer.load_state_dict({"weight": weight, "bias": bias})
    ours.output.load_state_dict(theirs.out_proj.state_dict())
    mask = neighbor_mask((3, 4), (1, 3))
    query, key, value = torch.randn(3, 2, 12, 12)
    expected, _ = theirs(query, key, value, attn_mask=mask)
    torch.testing.assert_close(ours(query, key, value, mask), expected)


def test_one_set_of_queries_serves_all_images() -> None:
    attention, mask = Attention(8, 2, dropout=0.0), neighbor_mask((3, 3), (1, 1))
    query, key = torch.randn(1, 9, 8), torch.randn(4, 9, 8)
    expected = attention(query.expand(4, -1, -1), key, key, mask)
    torch.testing.assert_close(attention(query, key, key, mask), expected)


def test_weights_of_the_attention_are_dropped_in_training_only() -> None:
    torch.manual_seed(0)
    attention, mask = Attention(8, 2, dropout=0.5), neighbor_mask((3, 3), (1, 1))
    tokens = torch.randn(1, 9, 8)
    assert not torch.equal(attention(tokens, tokens, tokens, mask), attention(tokens, tokens, tokens, mask))
    attention.eval()
    assert torch.equal(attention(tokens, tokens, tokens, mask), attention(tokens, tokens, tokens, mask))


def test_without_a_mask_a_token_attends_to_all() -> None:
    torch.manual_seed(0)
    attention, tokens = Attention(8, 2, dropout=0.0), torch.randn(2, 9, 8)
    expected = attention(tokens, tokens, tokens, torch.zeros(9, 9))
    assert torch.equal(attention(tokens, tokens, tokens), expected)


def test_a_position_is_its_columns_numbers_then_its_rows() -> None:
    embedding = PositionEmbedding((3, 4), 6)
    position = embedding().reshape(3, 4, 6)
    torch.testing.assert_close(position[2, 1], torch.cat((embedding.columns[1], embedding.rows[2])))
