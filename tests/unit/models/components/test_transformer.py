# SPDX-License-Identifier: Apache-2.0

"""What a token sees, and attention against PyTorch's own."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from anomalib_crad.models.components.transformer import Attention, neighbor_mask


def test_a_token_sees_all_but_the_window_around_itself() -> None:
    seen = (neighbor_mask((4, 6), (3, 5)) == 0).reshape(4, 6, 4, 6)
    for row in range(4):
        for column in range(6):
            expected = torch.ones(4, 6, dtype=torch.bool)
            expected[max(row - 1, 0) : row + 2, max(column - 2, 0) : column + 3] = False
            assert torch.equal(seen[row, column], expected)


def test_what_is_not_seen_has_no_influence() -> None:
    torch.manual_seed(0)
    attention, mask = Attention(8, 2, dropout=0.0), neighbor_mask((4, 5), (3, 3))
    tokens, query = torch.randn(1, 20, 8), torch.randn(1, 20, 8)
    changed = tokens.clone()
    changed[:, 0] += 1  # the top left corner
    difference = (attention(query, tokens, tokens, mask) - attention(query, changed, changed, mask)).abs().amax(dim=-1)
    assert (difference[0] == 0).nonzero().flatten().tolist() == [0, 1, 5, 6]


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


@pytest.mark.parametrize("neighbor_size", [(2, 3), (3, 0), (-1, 3)])
def test_window_without_a_centre_is_an_error(neighbor_size: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="neighbor_size must be two odd numbers"):
        neighbor_mask((8, 8), neighbor_size)


def test_window_that_hides_everything_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"neighbor_size 7 x 7 hides all 4 x 4 positions.*smaller neighbor_size"):
        neighbor_mask((4, 4), (7, 7))
