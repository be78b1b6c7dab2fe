# SPDX-License-Identifier: Apache-2.0

"""Terms of the loss."""

from __future__ import annotations

import pytest
import torch

from anomalib_crad.models.dmad.loss import DMADLoss


def test_each_kind_is_pushed_beyond_its_margin() -> None:
    loss = DMADLoss(margin=0.5, annotated_weight=10.0)
    normal, noisy, annotated = torch.tensor([1.0, 0.0]), torch.tensor([-1.0, 0.5]), torch.tensor([-0.5, 0.5])
    terms = loss.terms(normal, noisy, annotated)
    assert {name: value.item() for name, value in terms.items()} == {"normal": 0.25, "noisy": 0.5, "annotated": 5.0}
    assert loss(normal, noisy, annotated).item() == pytest.approx(5.75)


@pytest.mark.parametrize("annotated", [None, torch.empty(0)])
def test_without_annotated_patches_the_loss_has_two_terms(annotated: torch.Tensor | None) -> None:
    loss = DMADLoss()
    normal, noisy = torch.zeros(2), torch.zeros(2)
    assert set(loss.terms(normal, noisy, annotated)) == {"normal", "noisy"}
    assert loss(normal, noisy, annotated).item() == 1
