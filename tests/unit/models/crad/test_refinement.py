# SPDX-License-Identifier: Apache-2.0

"""What refinement passes and what it blocks, in numbers small enough to check by hand."""

from __future__ import annotations

import pytest
import torch

from anomalib_crad.models.crad.refinement import refine, similarity


def at_one_position(*channels: float) -> torch.Tensor:
    return torch.tensor(channels).reshape(1, -1, 1, 1)


def test_equal_features_pass() -> None:
    features = torch.randn(2, 4, 3, 3)
    torch.testing.assert_close(similarity(features, features), torch.ones(2, 1, 3, 3))
    torch.testing.assert_close(refine(features, features), features)


def test_closeness_ends_at_a_mean_squared_difference_of_ten() -> None:
    features = at_one_position(0.0, 1.0)
    near = at_one_position(20**0.5, 1.0)  # mean of (20, 0) is 10
    far = at_one_position(20.1**0.5, 1.0)
    cosine = 1 / 21**0.5
    torch.testing.assert_close(similarity(near, features).item(), 0.3 + 0.7 * cosine, atol=1e-4, rtol=0)
    cosine = 1 / 21.1**0.5
    torch.testing.assert_close(similarity(far, features).item(), 0.7 * cosine, atol=1e-4, rtol=0)


def test_dissimilar_features_are_replaced_by_the_reconstruction() -> None:
    features, reconstruction = at_one_position(10.0, 0.0), at_one_position(0.0, 10.0)
    torch.testing.assert_close(refine(reconstruction, features), reconstruction)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_does_not_round_the_difference_away(dtype: torch.dtype) -> None:
    features = torch.randn(2, 64, 4, 4, generator=torch.Generator().manual_seed(0)) * 5
    reconstruction = features + 0.1 * torch.randn(2, 64, 4, 4, generator=torch.Generator().manual_seed(1))
    features, reconstruction = features.to(dtype), reconstruction.to(dtype)
    exact = refine(reconstruction.double(), features.double()) - features.double()
    torch.testing.assert_close((refine(reconstruction, features) - features).double(), exact, rtol=0.05, atol=1e-5)


def test_gradient_flows_through_reconstruction_and_cosine() -> None:
    features = torch.randn(1, 4, 2, 2)
    reconstruction = torch.randn(1, 4, 2, 2, requires_grad=True)
    through_both = torch.autograd.grad(refine(reconstruction, features).sum(), reconstruction)[0]
    weight = similarity(reconstruction, features).detach()
    without_cosine = torch.autograd.grad((weight * features + (1 - weight) * reconstruction).sum(), reconstruction)[0]
    assert not torch.allclose(through_both, without_cosine)
