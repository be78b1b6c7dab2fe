# SPDX-License-Identifier: Apache-2.0

"""Knowledge of two banks: how a patch differs from its nearest normal and its nearest abnormal patch (DMAD).

The paper calls it feature attention. Over one entry a softmax is 1 whatever the keys are, and all that is left of the
attention is V x, which does not depend on the entry. It is computed once for both banks and stated as what it is.

Axis letters: N patches, D numbers a patch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import nn

if TYPE_CHECKING:
    import torch


class Knowledge(nn.Module):
    """For each bank ``BatchNorm(x - m + V x)``: patch x, nearest entry m, a linear layer V that both banks share.

    Each bank has a batch norm of its own. The authors' release has one for both and never leaves its training mode, so
    that a score depends on the other images of its batch. In evaluation mode, running statistics of both banks in one
    batch norm would be a mixture that fits neither.

    Args:
        dim: Numbers that describe a patch (D).
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.value = nn.Linear(dim, dim)
        self.normal_norm = nn.BatchNorm1d(dim)
        self.abnormal_norm = nn.BatchNorm1d(dim)

    def forward(
        self,
        patches: torch.Tensor,
        normal: torch.Tensor,
        abnormal: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Compare patches with their nearest entries.

        Args:
            patches: Patches x, N x D.
            normal: Nearest entry of the normal bank for each patch, N x D.
            abnormal: Nearest entry of the abnormal bank for each patch, N x D.

        Returns:
            Knowledge from the normal and from the abnormal bank, each N x D.
        """
        moved = patches + self.value(patches)
        return self.normal_norm(moved - normal), self.abnormal_norm(moved - abnormal)
