# SPDX-License-Identifier: Apache-2.0

"""Fusion: the trunk that turns the features of both memories into one reconstruction (CRAD, section 3.3).

MobileNetV3's inverted residual blocks at constant width, then a 1 x 1 convolution back to the features' channels. They
differ from torchvision's blocks in that squeeze-and-excite comes before the activation and has no biases.

Axis letters: B batch, C channels, H x W positions, E expanded (hidden) channels.
"""

from __future__ import annotations

from typing import Any

import torch
from timm.layers import SqueezeExcite
from torch import nn

from anomalib_crad.models.components.checkpoints import rename_tensors

SQUEEZE_REDUCTION = 4
#: Names of squeeze-and-excite's tensors up to version 0.1, and today's.
RENAMED_TENSORS = {r"\.gate\.1\.weight": ".fc1.weight", r"\.gate\.3\.weight": ".fc2.weight"}


class InvertedResidual(nn.Module):
    """Expand, filter each channel, gate, project back, and add the input.

    Args:
        channels: Channels of input and output.
        hidden_channels: Channels between the two 1 x 1 convolutions (E).
    """

    def __init__(self, channels: int, hidden_channels: int) -> None:
        super().__init__()
        self.expand = nn.Sequential(
            nn.Conv2d(channels, hidden_channels, kernel_size=1, bias=False),
            nn.BatchNorm2d(hidden_channels),
            nn.Hardswish(),
        )
        self.depthwise = nn.Sequential(
            nn.Conv2d(hidden_channels, hidden_channels, kernel_size=3, padding=1, groups=hidden_channels, bias=False),
            nn.BatchNorm2d(hidden_channels),
            SqueezeExcite(
                hidden_channels,
                rd_channels=max(hidden_channels // SQUEEZE_REDUCTION, 1),
                bias=False,
                act_layer=nn.ReLU,
                gate_layer=nn.Hardsigmoid,
            ),
            nn.Hardswish(),
        )
        self.project = nn.Sequential(
            nn.Conv2d(hidden_channels, channels, kernel_size=1, bias=False),
            nn.BatchNorm2d(channels),
        )

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Apply the block to features B x channels x H x W; the shape stays."""
        return features + self.project(self.depthwise(self.expand(features)))


class Fusion(nn.Module):
    """From the global and the local memory's features to the raw reconstruction ``r``.

    Args:
        in_channels: Channels of each of the two inputs and of the output (C).
        num_blocks: Inverted residual blocks; 0 leaves only the last convolution.
        hidden_channels: Width inside the blocks: 864 for CRAD, 216 for CRAD-S.
    """

    def __init__(self, in_channels: int, num_blocks: int, hidden_channels: int) -> None:
        super().__init__()
        if num_blocks < 0 or hidden_channels < 1:
            msg = f"num_blocks must be >= 0 and hidden_channels >= 1, got {num_blocks} and {hidden_channels}."
            raise ValueError(msg)
        self.blocks = nn.Sequential(*(InvertedResidual(2 * in_channels, hidden_channels) for _ in range(num_blocks)))
        self.recover = nn.Conv2d(2 * in_channels, in_channels, kernel_size=1, bias=False)
        self.register_load_state_dict_pre_hook(_rename_old_tensors)

    def forward(self, global_features: torch.Tensor, local_features: torch.Tensor) -> torch.Tensor:
        """Fuse two B x C x H x W feature maps into one of the same shape."""
        return self.recover(self.blocks(torch.cat((global_features, local_features), dim=1)))


def _rename_old_tensors(_module: nn.Module, state_dict: dict[str, Any], *_: object) -> None:
    """Let a fusion load a state dict of an older release."""
    rename_tensors(state_dict, RENAMED_TENSORS)
