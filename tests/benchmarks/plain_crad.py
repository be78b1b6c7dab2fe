# SPDX-License-Identifier: Apache-2.0

"""CRAD's head written down plainly from the paper's facts: the reference that the training benchmark compares with.

It reads grids with ``grid_sample`` over a grid expanded for each image, composes hard swish and hard sigmoid from
``relu6``, and refines with a rounded clamp. Its parameters have the names of the product's head, so that both can hold
the same weights and must give the same loss.

Axis letters: B batch, C channels, H x W positions.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional


def hard_sigmoid(values: torch.Tensor) -> torch.Tensor:
    """Hard sigmoid from ``relu6``."""
    return functional.relu6(values + 3) / 6


def hard_swish(values: torch.Tensor) -> torch.Tensor:
    """Hard swish from ``relu6``."""
    return values * functional.relu6(values + 3) / 6


class PlainBlock(nn.Module):
    """One inverted residual block: expand, filter, squeeze and excite, project, add."""

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.expand = nn.Conv2d(channels, hidden, 1, bias=False)
        self.expand_norm = nn.BatchNorm2d(hidden)
        self.depthwise = nn.Conv2d(hidden, hidden, 3, padding=1, groups=hidden, bias=False)
        self.depthwise_norm = nn.BatchNorm2d(hidden)
        self.squeeze = nn.Linear(hidden, hidden // 4, bias=False)
        self.excite = nn.Linear(hidden // 4, hidden, bias=False)
        self.project = nn.Conv2d(hidden, channels, 1, bias=False)
        self.project_norm = nn.BatchNorm2d(channels)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Return the block's output, of the input's shape."""
        hidden = hard_swish(self.expand_norm(self.expand(features)))
        hidden = self.depthwise_norm(self.depthwise(hidden))
        gate = hard_sigmoid(self.excite(functional.relu(self.squeeze(hidden.mean(dim=(2, 3))))))
        hidden = hard_swish(hidden * gate[:, :, None, None])
        return features + self.project_norm(self.project(hidden))


class PlainCradHead(nn.Module):
    """Coordinates, both memories, fusion and refinement, in the order of the paper.

    Args:
        in_channels: Channels of the features (C).
        feature_size: Height and width of the features.
        num_blocks: Blocks of the fusion. Defaults to ``11``.
        hidden_channels: Width inside them. Defaults to ``864``.
    """

    def __init__(
        self, in_channels: int, feature_size: tuple[int, int], num_blocks: int = 11, hidden_channels: int = 864
    ) -> None:
        super().__init__()
        self.feature_shape = (in_channels, *feature_size)
        numbers = in_channels * feature_size[0] * feature_size[1]
        self.local_grid = nn.Parameter(nn.init.xavier_normal_(torch.empty(1, in_channels, 8, 8)))
        self.global_grid = nn.Parameter(nn.init.xavier_normal_(torch.empty(1, numbers, 4, 4)))
        self.local_coordinates = nn.Sequential(
            nn.Conv2d(in_channels, in_channels, 1), nn.Tanh(), nn.Conv2d(in_channels, 2, 1), nn.Tanh()
        )
        self.global_coordinates = nn.Sequential(
            nn.Linear(in_channels, in_channels), nn.Tanh(), nn.Linear(in_channels, 2), nn.Tanh()
        )
        self.blocks = nn.Sequential(*(PlainBlock(2 * in_channels, hidden_channels) for _ in range(num_blocks)))
        self.recover = nn.Conv2d(2 * in_channels, in_channels, 1, bias=False)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Return refined features, of the shape of ``features``, B x C x H x W."""
        batch = len(features)
        local = self.local_coordinates(features).permute(0, 2, 3, 1)  # B x H x W x 2
        local = functional.grid_sample(self.local_grid.expand(batch, -1, -1, -1), local, align_corners=False)
        whole = self.global_coordinates(features.mean(dim=(2, 3)))[:, None, None]  # B x 1 x 1 x 2
        whole = functional.grid_sample(self.global_grid.expand(batch, -1, -1, -1), whole, align_corners=False)
        whole = whole.reshape(batch, *self.feature_shape)
        raw = self.recover(self.blocks(torch.cat((whole, local), dim=1)))
        distance = (raw - features).square().mean(dim=1, keepdim=True)
        close = (1 - torch.round(torch.clamp(0.05 * distance, 0, 1))).detach()
        similarity = 0.3 * close + 0.7 * functional.cosine_similarity(raw, features, dim=1).unsqueeze(1)
        return similarity * features + (1 - similarity) * raw
