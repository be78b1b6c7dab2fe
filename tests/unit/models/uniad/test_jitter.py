# SPDX-License-Identifier: Apache-2.0

"""How much features are disturbed, and when."""

from __future__ import annotations

import pytest
import torch

from anomalib_crad.models.uniad.jitter import FeatureJitter


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
