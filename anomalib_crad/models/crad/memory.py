# SPDX-License-Identifier: Apache-2.0

"""Continuous memory: normal features that are read at coordinates (CRAD, section 3).

A memory bank stores discrete features and must search or mix them. A :class:`ContinuousGrid` stores values on a small
square grid and interpolates between them, so that two coordinates name any point of a continuous space of normal
features. :class:`LocalMemory` reads one feature for each position, :class:`GlobalMemory` one whole feature map for each
image; both predict their coordinates from the features that they replace.

Axis letters: B batch, C channels, H x W positions, R grid resolution, K = R * R grid cells.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import nn
from torch.nn import functional

JITTER_STD = 0.05
JITTER_PROBABILITY = 0.5


class ContinuousGrid(nn.Module):
    """Learned values on a square grid, read at continuous coordinates by bilinear interpolation.

    Convention:
        Coordinates are ``(x, y)``; x runs along columns, y along rows, and ``[-1, 1]`` spans the grid from the outer
        edge of the first cell to the outer edge of the last, so cell ``i`` is centred at ``(2 * i + 1) / R - 1``.
        Outside lie zeros: between the centre of a border cell and the edge a value fades to one half. This is what
        ``grid_sample(mode="bilinear", padding_mode="zeros", align_corners=False)`` computes.

    A read is written as hat-function weights times the table of cells instead of ``grid_sample``: the numbers are the
    same, but both directions are a matrix product. It is several times faster where the table is wide. And PyTorch
    documents the gradients of ``grid_sample`` as nondeterministic on GPUs, those of a matrix product not.

    Args:
        out_dim: Numbers stored in each cell.
        resolution: Cells along each side of the grid (R).

    Example:
        >>> grid = ContinuousGrid(out_dim=3, resolution=4)
        >>> grid(torch.zeros(10, 2)).shape
        torch.Size([10, 3])
    """

    def __init__(self, out_dim: int, resolution: int) -> None:
        super().__init__()
        if resolution < 1:
            msg = f"The resolution of a continuous grid must be at least 1, got {resolution}."
            raise ValueError(msg)
        self.out_dim = out_dim
        self.resolution = resolution
        # The leading 1 is part of the initialisation: Xavier's fan counts come from this shape.
        self.values = nn.Parameter(torch.empty(1, out_dim, resolution, resolution))
        self.register_buffer("cells", torch.arange(resolution, dtype=torch.float32), persistent=False)
        self.cells: torch.Tensor
        nn.init.xavier_normal_(self.values)

    def forward(self, coordinates: torch.Tensor) -> torch.Tensor:
        """Read the grid.

        Args:
            coordinates: ``(x, y)`` in [-1, 1], shape ``(..., 2)``.

        Returns:
            Interpolated values, shape ``(..., out_dim)``.
        """
        # A coordinate in units of cells, 0 at the centre of the first one.
        positions = ((coordinates + 1) * self.resolution - 1) / 2  # (..., 2)
        weights = functional.relu(1 - (positions.unsqueeze(-1) - self.cells).abs())  # (..., 2, R)
        columns, rows = weights.unbind(dim=-2)
        weights = (rows.unsqueeze(-1) * columns.unsqueeze(-2)).flatten(-2)  # (..., K)
        return functional.linear(weights, self.values.flatten(2).squeeze(0))  # (..., out_dim)


class CoordinateJitter(nn.Module):
    """Gaussian noise on coordinates in training, so that neighbouring cells learn to blend (CRAD, section 3.4).

    One draw decides for a whole batch: all of its coordinates are disturbed, or none.

    Args:
        std: Standard deviation of the noise, in units of coordinates. Defaults to ``0.05``.
        probability: Chance that a batch is disturbed. Defaults to ``0.5``.
    """

    def __init__(self, std: float = JITTER_STD, probability: float = JITTER_PROBABILITY) -> None:
        super().__init__()
        if std < 0 or not 0 <= probability <= 1:
            msg = f"jitter_std must be >= 0 and jitter_probability in [0, 1], got {std} and {probability}."
            raise ValueError(msg)
        self.std = std
        self.probability = probability

    def forward(self, coordinates: torch.Tensor) -> torch.Tensor:
        """Return the coordinates, disturbed in training mode only; any shape."""
        if not self.training or torch.rand(1).item() >= self.probability:
            return coordinates
        noise = torch.randn(coordinates.shape, device=coordinates.device, dtype=coordinates.dtype)
        return coordinates + self.std * noise


class FeatureMemory(nn.Module, ABC):
    """A memory that replaces features by normal ones."""

    @abstractmethod
    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Replace features by normal ones; shape B x C x H x W in and out."""

    def read(self, features: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Read in training.

        Args:
            features: B x C x H x W.

        Returns:
            What :meth:`forward` returns, and a term that the memory adds to the training loss, a scalar, or ``None``.
        """
        return self(features), None


class LocalMemory(FeatureMemory):
    """One normal feature for each position, read from a grid of features.

    Args:
        in_channels: Channels of the features (C).
        resolution: Cells along each side of the grid.
        jitter_std: See :class:`CoordinateJitter`.
        jitter_probability: See :class:`CoordinateJitter`.
    """

    def __init__(
        self,
        in_channels: int,
        resolution: int,
        jitter_std: float = JITTER_STD,
        jitter_probability: float = JITTER_PROBABILITY,
    ) -> None:
        super().__init__()
        self.coordinates = nn.Sequential(
            nn.Conv2d(in_channels, in_channels, kernel_size=1),
            nn.Tanh(),
            nn.Conv2d(in_channels, 2, kernel_size=1),
            nn.Tanh(),
        )
        self.jitter = CoordinateJitter(jitter_std, jitter_probability)
        self.grid = ContinuousGrid(in_channels, resolution)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Replace each feature by the normal one at its coordinate; shape B x C x H x W in and out."""
        coordinates = self.jitter(self.coordinates(features))  # B x 2 x H x W
        normal = self.grid(coordinates.permute(0, 2, 3, 1))  # B x H x W x C
        return normal.permute(0, 3, 1, 2)


class GlobalMemory(FeatureMemory):
    """One normal feature map for each image, read from a grid whose cells hold whole feature maps.

    Its cells have C * H * W numbers, which ties a trained model to the feature size that it was built for. It is never
    jittered.

    Args:
        in_channels: Channels of the features (C).
        feature_size: Height and width of the features.
        resolution: Cells along each side of the grid.
    """

    def __init__(self, in_channels: int, feature_size: tuple[int, int], resolution: int) -> None:
        super().__init__()
        self.coordinates = nn.Sequential(
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(in_channels, in_channels),
            nn.Tanh(),
            nn.Linear(in_channels, 2),
            nn.Tanh(),
        )
        self.feature_shape = (in_channels, *feature_size)
        self.grid = ContinuousGrid(in_channels * feature_size[0] * feature_size[1], resolution)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Replace each feature map by the normal one at its image's coordinate; shape B x C x H x W in and out."""
        return self.grid(self.coordinates(features)).unflatten(-1, self.feature_shape)
