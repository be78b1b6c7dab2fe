# SPDX-License-Identifier: Apache-2.0

"""Patches of defects that training learns from: those that the abnormal bank holds with the image that they are of.

A frozen backbone gives an image the same patches in every epoch, so nothing is computed again: patches and their
neighbours are in the banks, and so in every checkpoint.

Axis letters: N patches, D numbers a patch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from anomalib_crad.models.dmad.bank import MemoryBank


class AnnotatedPatches:
    """Patches of defects with their nearest entries in both banks, to be drawn image by image.

    An entry of the same image is not a patch's neighbour: the patch itself is in the bank, and would be its own.

    Args:
        normal_bank: The normal bank.
        abnormal_bank: The abnormal bank; its entries with an image are the patches.
    """

    @torch.no_grad()
    def __init__(self, normal_bank: MemoryBank, abnormal_bank: MemoryBank) -> None:
        self._banks = (normal_bank, abnormal_bank)
        self._rows = (abnormal_bank.images >= 0).nonzero().squeeze(1)
        self._images = abnormal_bank.images[self._rows]
        patches = abnormal_bank.entries[self._rows]
        self._normal = normal_bank.nearest(patches)
        self._abnormal = abnormal_bank.nearest(patches, self._images)
        self._numbers = self._images.unique()

    def __len__(self) -> int:
        """Images with at least one patch."""
        return len(self._numbers)

    def draw(self, count: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Draw images at random and return all their patches.

        Args:
            count: Images to draw; all of them where there are not more.

        Returns:
            Patches, their nearest entries of the normal bank and of the abnormal bank, each N x D.
        """
        drawn = self._numbers[torch.randperm(len(self))[:count].to(self._numbers.device)]
        chosen = torch.isin(self._images, drawn)
        normal_bank, abnormal_bank = self._banks
        return (
            abnormal_bank.entries[self._rows[chosen]],
            normal_bank.entries[self._normal[chosen]],
            abnormal_bank.entries[self._abnormal[chosen]],
        )
