# SPDX-License-Identifier: Apache-2.0

"""What is said before an export that cannot succeed."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from anomalib_crad.models.components.export.checks import (
    check_checkpoint,
    check_is_trained,
    exportable_size,
)


class Detector(nn.Module):
    """A frozen backbone and a head, both with a batch norm."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.BatchNorm2d(2).requires_grad_(requires_grad=False)
        self.head = nn.BatchNorm2d(2)


def test_a_model_that_has_seen_no_batch_is_untrained_whatever_its_backbone_has_seen() -> None:
    model = Detector()
    model.backbone(torch.rand(2, 2, 3, 3))
    with pytest.raises(ValueError, match=r"This Detector has not been trained.*--ckpt_path.*load_from_checkpoint"):
        check_is_trained(model)
    model.head(torch.rand(2, 2, 3, 3))
    check_is_trained(model)


def test_a_model_without_batch_norms_is_given_the_benefit_of_the_doubt() -> None:
    check_is_trained(nn.Linear(2, 2))


def test_a_checkpoint_of_another_model_is_refused() -> None:
    own = {"model.memory": torch.zeros(1), "model.fusion": torch.zeros(1), "post_processor.threshold": torch.zeros(1)}
    check_checkpoint("Crad", own, {"state_dict": {"model.memory": 0, "model.fusion": 0}})
    with pytest.raises(
        ValueError, match="not one of Crad: 1 of the 2 tensors of its network are missing and 1 are unknown"
    ):
        check_checkpoint("Crad", own, {"state_dict": {"model.memory": 0, "model.bank": 0}})
    with pytest.raises(ValueError, match="2 of the 2 tensors of its network are missing"):
        check_checkpoint("Crad", own, {"weights": {}})


@pytest.mark.parametrize(
    ("asked", "resizes", "expected"),
    [(None, True, None), ((100, 80), True, (100, 80)), (None, False, (64, 32)), ((64, 32), False, (64, 32))],
)
def test_input_size(asked: tuple[int, int] | None, resizes: bool, expected: tuple[int, int] | None) -> None:
    assert exportable_size(asked, [64, 32], resizes=resizes) == expected


def test_a_size_that_nothing_resizes_is_refused() -> None:
    with pytest.raises(ValueError, match=r"input_size=\[32, 64\], but the model was trained for \[64, 32\]"):
        exportable_size((32, 64), [64, 32], resizes=False)


@pytest.mark.parametrize("asked", [(64,), (0, 64)])
def test_no_size_is_refused(asked: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"input_size must be height and width.*--input_size"):
        exportable_size(asked, [64, 32], resizes=True)
