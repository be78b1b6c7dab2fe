# SPDX-License-Identifier: Apache-2.0

"""From features and their reconstruction to distances, window means and image scores.

These are the parts of every model's anomaly map; each model chooses its windows and their order. The mean over a square
is separable, and is computed as two one-dimensional means.

Axis letters: B batch, C channels, H x W positions.
"""

from __future__ import annotations

import torch
from torch.nn import functional

from anomalib_crad.models.components.precision import at_least_single_precision


def feature_distance(features: torch.Tensor, reconstruction: torch.Tensor) -> torch.Tensor:
    """L2 norm over channels of the difference.

    Args:
        features: B x C x H x W.
        reconstruction: B x C x H x W.

    Returns:
        Distances, B x 1 x H x W, in at least single precision.
    """
    reconstruction, features = at_least_single_precision(reconstruction), at_least_single_precision(features)
    return torch.linalg.vector_norm(reconstruction - features, dim=1, keepdim=True)


def enlarge(distance: torch.Tensor, image_size: tuple[int, int]) -> torch.Tensor:
    """Interpolate bilinearly with aligned corners, as the authors of CRAD and of UniAD do.

    Args:
        distance: B x 1 x H x W.
        image_size: Height and width of the result.

    Returns:
        Distances, B x 1 x image size.
    """
    return functional.interpolate(distance, size=image_size, mode="bilinear", align_corners=True)


def smooth(anomaly_map: torch.Tensor, kernel: int) -> torch.Tensor:
    """Mean over a square window around each pixel; pixels outside the image count as zero.

    Args:
        anomaly_map: B x 1 x height x width.
        kernel: Odd side of the window, in pixels.

    Returns:
        Smoothed map of the same shape.
    """
    half = kernel // 2
    rows = functional.avg_pool2d(anomaly_map, kernel_size=(kernel, 1), stride=1, padding=(half, 0))
    return functional.avg_pool2d(rows, kernel_size=(1, kernel), stride=1, padding=(0, half))


def image_score(anomaly_map: torch.Tensor, kernel: int) -> torch.Tensor:
    """Largest mean over any square window that lies inside the map.

    Args:
        anomaly_map: B x 1 x height x width.
        kernel: Side of the window, in pixels, cut to the map where the map is smaller.

    Returns:
        Scores, shape ``(B,)``.
    """
    height, width = anomaly_map.shape[-2:]
    rows = functional.avg_pool2d(anomaly_map, kernel_size=(min(kernel, height), 1), stride=1)
    return functional.avg_pool2d(rows, kernel_size=(1, min(kernel, width)), stride=1).amax(dim=(1, 2, 3))
