# SPDX-License-Identifier: Apache-2.0

"""What keeps UniAD from copying: how much features are disturbed and when, and what a token sees."""

from __future__ import annotations

import pytest
import torch

from anomalib_crad.models.components.transformer import Attention
from anomalib_crad.models.uniad.transformer import FeatureJitter, neighbor_mask


def test_noise_is_as_large_as_a_tokens_norm_calls_for() -> None:
    torch.manual_seed(0)
    tokens = torch.randn(2, 3, 4096) * torch.tensor([1.0, 10.0, 0.0]).reshape(3, 1)
    noise = FeatureJitter(scale=20.0)(tokens) - tokens
    expected = 20 * tokens.norm(dim=-1) / 4096
    torch.testing.assert_close(noise.std(dim=-1), expected, rtol=0.05, atol=0)
    assert noise.mean(dim=-1).abs().max() < 0.1 * expected.max()


def test_features_are_left_alone_outside_training() -> None:
    tokens = torch.randn(2, 3, 8)
    assert torch.equal(FeatureJitter().eval()(tokens), tokens)


def test_all_tokens_of_a_batch_are_disturbed_or_none() -> None:
    torch.manual_seed(0)
    jitter, tokens = FeatureJitter(probability=0.5), torch.randn(2, 3, 8)
    changed = [(jitter(tokens) != tokens).any(dim=-1) for _ in range(200)]
    assert all(batch.all() or not batch.any() for batch in changed)
    assert sum(bool(batch.any()) for batch in changed) == pytest.approx(100, abs=25)


@pytest.mark.parametrize(("scale", "probability"), [(-1.0, 0.5), (float("nan"), 0.5), (1.0, 1.5), (1.0, -0.1)])
def test_arguments_are_checked(scale: float, probability: float) -> None:
    with pytest.raises(ValueError, match=r"jitter_scale must be >= 0 and jitter_probability in \[0, 1\], got"):
        FeatureJitter(scale, probability)


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


@pytest.mark.parametrize("neighbor_size", [(2, 3), (3, 0), (-1, 3)])
def test_window_without_a_centre_is_an_error(neighbor_size: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="neighbor_size must be two odd numbers"):
        neighbor_mask((8, 8), neighbor_size)


def test_window_that_hides_everything_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"neighbor_size 7 x 7 hides all 4 x 4 positions.*smaller neighbor_size"):
        neighbor_mask((4, 4), (7, 7))
