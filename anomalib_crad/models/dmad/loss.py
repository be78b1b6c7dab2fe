# SPDX-License-Identifier: Apache-2.0

"""Training loss of DMAD: scores above a margin for normal patches, below its negative for all others.

As in SimpleNet (Liu et al., CVPR 2023), whose scorer DMAD takes over, "other" patches are normal ones with noise. Where
some defects are annotated, their patches are a third term with a weight of its own, since they are few.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

MARGIN = 0.5
ANNOTATED_WEIGHT = 10.0


class DMADLoss(nn.Module):
    """Sum of hinge losses, each the mean over the patches of one kind.

    Args:
        margin: Normal patches should score above it, all others below its negative.
            Defaults to ``0.5``.
        annotated_weight: Weight of the annotated patches' term. Defaults to ``10.0``.
    """

    def __init__(self, margin: float = MARGIN, annotated_weight: float = ANNOTATED_WEIGHT) -> None:
        super().__init__()
        self.margin = margin
        self.annotated_weight = annotated_weight

    def forward(
        self,
        normal: torch.Tensor,
        noisy: torch.Tensor,
        annotated: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Compute the loss.

        Args:
            normal: Scores of normal patches, high is normal; any shape.
            noisy: Scores of the same patches with noise; any shape.
            annotated: Scores of annotated abnormal patches; any shape. Defaults to ``None``: there are none, which an
                empty tensor says too.

        Returns:
            A scalar.
        """
        return sum(self.terms(normal, noisy, annotated).values(), start=normal.new_zeros(()))

    def terms(
        self,
        normal: torch.Tensor,
        noisy: torch.Tensor,
        annotated: torch.Tensor | None = None,
    ) -> dict[str, torch.Tensor]:
        """Compute the terms that make up the loss.

        Args:
            normal: See :meth:`forward`.
            noisy: See :meth:`forward`.
            annotated: See :meth:`forward`.

        Returns:
            Scalars by name: ``normal``, ``noisy`` and, where there are annotated patches, ``annotated``, which has its
            weight.
        """
        terms = {
            "normal": functional.relu(self.margin - normal).mean(),
            "noisy": functional.relu(self.margin + noisy).mean(),
        }
        if annotated is not None and annotated.numel():  # the mean of no patch would be NaN
            terms["annotated"] = self.annotated_weight * functional.relu(self.margin + annotated).mean()
        return terms
