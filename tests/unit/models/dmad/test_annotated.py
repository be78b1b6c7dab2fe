# SPDX-License-Identifier: Apache-2.0

"""What training draws of annotated patches."""

from __future__ import annotations

import torch

from anomalib_crad.models.dmad.annotated import AnnotatedPatches
from anomalib_crad.models.dmad.bank import MemoryBank


def banks() -> tuple[MemoryBank, MemoryBank]:
    """A normal bank of 0 and 10; defects of image 3 at 4 and 5, of image 7 at 8, and a pseudo anomaly at 20."""
    normal, abnormal = MemoryBank(1), MemoryBank(1)
    normal.fill(torch.tensor([[0.0], [10.0]]))
    abnormal.fill(torch.tensor([[4.0], [5.0], [8.0], [20.0]]), torch.tensor([3, 3, 7, -1]))
    return normal, abnormal


def test_patches_come_with_their_neighbours_of_other_images() -> None:
    annotated = AnnotatedPatches(*banks())
    patches, normal, abnormal = annotated.draw(5)
    assert len(annotated) == 2
    assert patches.flatten().tolist() == [4, 5, 8]
    assert normal.flatten().tolist() == [0, 0, 10] or normal.flatten().tolist() == [0, 10, 10]
    assert abnormal.flatten().tolist() == [8, 8, 5]


def test_whole_images_are_drawn_at_random() -> None:
    annotated = AnnotatedPatches(*banks())
    torch.manual_seed(0)
    drawn = {tuple(annotated.draw(1)[0].flatten().tolist()) for _ in range(20)}
    assert drawn == {(4.0, 5.0), (8.0,)}


def test_a_bank_without_defects_has_nothing_to_draw() -> None:
    normal, _ = banks()
    annotated = AnnotatedPatches(normal, normal)
    assert len(annotated) == 0
    assert [part.shape for part in annotated.draw(4)] == [(0, 1)] * 3
