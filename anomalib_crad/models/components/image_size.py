# SPDX-License-Identifier: Apache-2.0

"""Image size and pre-processor of models whose network is built for one size.

A network with a global memory or learned positions needs the image size when it is built, long before the first image.
The size comes from the model's ``image_size`` or from the pre-processor, and the two must agree.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from anomalib.pre_processing import PreProcessor
from torchvision.transforms.v2 import Compose, Normalize, Resize

IMAGE_SIZE = (224, 224)
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


def resolve_image_size(
    image_size: Sequence[int] | None,
    pre_processor: PreProcessor | bool,
    default: tuple[int, int] = IMAGE_SIZE,
) -> tuple[int, int]:
    """Find the size of the images that the network will see.

    Args:
        image_size: Height and width that the user asked for, or ``None``.
        pre_processor: The user's pre-processor, or a flag.
        default: The size if neither gives one. Defaults to ``(224, 224)``.

    Returns:
        Height and width.

    Raises:
        ValueError: If ``image_size`` is not two positive numbers, or the pre-processor resizes to another size.
    """
    if image_size is not None and not _is_height_and_width(image_size):
        msg = f"image_size must be height and width, two positive whole numbers of pixels, got {image_size!r}."
        raise ValueError(msg)
    asked = None if image_size is None else (image_size[0], image_size[1])
    given = _output_size(pre_processor)
    if asked is not None and given is not None and asked != given:
        msg = f"image_size is {asked}, but pre_processor resizes to {given}. Leave out image_size, or make them equal."
        raise ValueError(msg)
    return asked or given or default


def _is_height_and_width(value: object) -> bool:
    if isinstance(value, str) or not isinstance(value, Sequence):
        return False
    return len(value) == 2 and all(isinstance(side, int) and side > 0 for side in value)


def _output_size(pre_processor: PreProcessor | bool) -> tuple[int, int] | None:
    """Height and width that a pre-processor resizes to; ``None`` if it does not resize."""
    if not isinstance(pre_processor, PreProcessor) or pre_processor.transform is None:
        return None
    height, width = pre_processor.transform(torch.zeros(1, 3, 1, 1)).shape[-2:]
    return None if (height, width) == (1, 1) else (height, width)


def resize_and_normalise(
    image_size: Sequence[int],
    mean: Sequence[float] = IMAGENET_MEAN,
    std: Sequence[float] = IMAGENET_STD,
) -> PreProcessor:
    """Make the pre-processor of a model.

    The resize has no antialiasing: exported graphs cannot have it, and scores must not change on export.

    Args:
        image_size: Height and width.
        mean: Mean of each channel. Defaults to ImageNet's.
        std: Standard deviation of each channel. Defaults to ImageNet's.

    Returns:
        The pre-processor.
    """
    return PreProcessor(
        Compose([Resize(list(image_size), antialias=False), Normalize(mean=list(mean), std=list(std))]),
    )
