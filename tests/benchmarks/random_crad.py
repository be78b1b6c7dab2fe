# SPDX-License-Identifier: Apache-2.0

"""Crad with random weights whose values have the scale of trained ones, for measurements of time.

Plain random weights are not enough: in a deep backbone their features shrink to denormal numbers, which processors
handle many times slower. Here every batch norm first sees made-up images, so that the values of each layer are about 1,
as in a trained model.
"""

from __future__ import annotations

from types import MethodType
from typing import TYPE_CHECKING, cast

import torch
from torch import nn
from torch.nn import functional

from anomalib_crad import Crad
from anomalib_crad.models.crad.memory import ContinuousGrid
from anomalib_crad.post_processing.rules import Threshold
from anomalib_crad.post_processing.thresholds import LevelThresholds, Thresholds

if TYPE_CHECKING:
    from anomalib_crad.post_processing import CategoryPostProcessor

SMALLEST_NORMAL = torch.finfo(torch.float32).tiny


def random_images(count: int, size: tuple[int, int], seed: int = 0) -> torch.Tensor:
    """Make up smooth colour images.

    Args:
        count: Number of images.
        size: Height and width.
        seed: Seed of the images. Defaults to ``0``.

    Returns:
        Values in [0, 1], count x 3 x height x width.
    """
    coarse = torch.rand(count, 3, 12, 12, generator=torch.Generator().manual_seed(seed))
    return functional.interpolate(coarse, size=size, mode="bicubic", align_corners=False).clamp(0, 1)


def random_crad(backbone: str, hidden_channels: int, image_size: tuple[int, int]) -> Crad:
    """Build a model that computes what a trained one computes.

    Args:
        backbone: Name of a timm model.
        hidden_channels: Width of the head's blocks.
        image_size: Height and width.

    Returns:
        The model, in evaluation mode, with thresholds among its own scores.
    """
    model = Crad(
        backbone=backbone,
        pre_trained=False,
        hidden_channels=hidden_channels,
        image_size=image_size,
        seed=0,
        visualizer=False,
        evaluator=False,
    )
    images = random_images(8, image_size)
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.momentum = None  # the mean over all batches
    with torch.no_grad():
        normalised = preprocessed(model, images)
        model.model.feature_extractor.backbone.train()
        model.model.feature_extractor.backbone(normalised)
        model.eval()
        features = model.model.feature_extractor(normalised)
        model.model.reconstruction.train()(features)
        scores = model.eval().model(normalised)
    check_scale(features)
    levels = LevelThresholds(*(Threshold(float(v.median()), 1.0) for v in (scores.pred_score, scores.anomaly_map)))
    cast("CategoryPostProcessor", model.post_processor).thresholds = Thresholds(levels)
    return model


def preprocessed(model: Crad, images: torch.Tensor) -> torch.Tensor:
    """Resize and normalise.

    Args:
        model: The model.
        images: Images.

    Returns:
        What the network takes.
    """
    return cast("torch.Tensor", cast("nn.Module", model.pre_processor)(images))


def check_scale(features: torch.Tensor) -> None:
    """Check that features have the scale of a trained model's.

    Args:
        features: Features of any shape.

    Raises:
        ValueError: If their scale is far from 1, or some are denormal.
    """
    denormal = ((features != 0) & (features.abs() < SMALLEST_NORMAL)).sum().item()
    scale = features.std().item()
    if denormal or not 0.05 < scale < 20:
        msg = f"The features' standard deviation is {scale:.1e}, and {denormal} of them are denormal."
        raise ValueError(msg)


def with_plain_reads(model: Crad) -> Crad:
    """Read the memories as the paper's formulas are usually transcribed: ``grid_sample`` of an expanded grid.

    Args:
        model: A model; it is changed.

    Returns:
        The model.
    """
    for grid in model.modules():
        if isinstance(grid, ContinuousGrid):
            grid.forward = MethodType(_plain_read, grid)  # type: ignore[method-assign]
    return model


def _plain_read(grid: ContinuousGrid, coordinates: torch.Tensor) -> torch.Tensor:
    """Read (B, 2) or (B, H, W, 2) coordinates; returns (B, out_dim) or (B, H, W, out_dim)."""
    positions = coordinates if coordinates.ndim == 4 else coordinates[:, None, None]
    values = grid.values.expand(len(positions), -1, -1, -1)
    read = functional.grid_sample(values, positions, mode="bilinear", padding_mode="zeros", align_corners=False)
    read = read.permute(0, 2, 3, 1)
    return read if coordinates.ndim == 4 else read[:, 0, 0]
