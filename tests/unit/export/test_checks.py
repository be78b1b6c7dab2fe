# SPDX-License-Identifier: Apache-2.0

"""What is said before an export that cannot succeed."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from anomalib_crad.export.checks import (
    check_is_trained,
    exportable_size,
    fingerprint,
)


def test_a_head_that_holds_what_it_was_built_with_is_untrained() -> None:
    head = nn.Sequential(nn.Linear(2, 2, bias=False), nn.BatchNorm1d(2))
    initial = fingerprint(head)
    with pytest.raises(ValueError, match=r"This Detector has not been trained.*--ckpt_path.*Detector\.load_from_check"):
        check_is_trained("Detector", head, initial)
    head(torch.rand(4, 2))  # the batch norm has seen a batch
    check_is_trained("Detector", head, initial)


def test_a_head_that_nobody_looked_at_as_it_was_built_passes() -> None:
    check_is_trained("Detector", nn.Linear(2, 2), None)


def test_a_fingerprint_is_of_the_numbers_and_not_of_where_they_lie() -> None:
    layer = nn.Conv2d(3, 4, 2)
    before = fingerprint(layer)
    assert fingerprint(layer.to(memory_format=torch.channels_last)) == before
    with torch.no_grad():
        layer.weight[3, 2, 1, 1] += 1e-3
    assert fingerprint(layer) != before


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
