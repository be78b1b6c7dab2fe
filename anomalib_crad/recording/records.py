# SPDX-License-Identifier: Apache-2.0

"""What is recorded of one image, and how a batch becomes such records.

Metrics and thresholds read these records only, so the copy to the CPU and the checks of sizes are written once. A
record shares no memory with the model: post-processors write into the batch that it comes from.

Axes: B images of a batch, H x W pixels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    import numpy as np
    from anomalib.data import Batch
    from numpy.typing import NDArray


@dataclass(frozen=True)
class ImageRecord:
    """Raw prediction and ground truth of one image; nothing in it has passed a post-processor.

    Attributes:
        path: Path of the image, or an empty string where the batch has none.
        anomalous: Ground-truth label.
        score: Raw image score, or ``None`` where the model gives none.
        anomaly_map: Raw anomaly map, H x W, float32, or ``None`` where the model gives none.
        mask: Ground-truth mask, H x W, or ``None`` where the image has none.
    """

    path: str
    anomalous: bool
    score: float | None
    anomaly_map: NDArray[np.float32] | None
    mask: NDArray[np.bool_] | None


def split_batch(predictions: object, batch: Batch, *, maps: bool = True) -> list[ImageRecord]:
    """Copy a batch of B images to the CPU and split it into one record per image.

    Args:
        predictions: Holds ``pred_score`` and ``anomaly_map``; often the batch itself.
        batch: Holds the ground truth and the paths.
        maps: Whether to copy anomaly maps and masks. Defaults to ``True``.

    Returns:
        B records, or none if the batch has no labels.

    Raises:
        ValueError: If the predictions do not fit the ground truth in number or size.
    """
    if batch.gt_label is None:
        return []
    labels = [bool(label) for label in torch.as_tensor(batch.gt_label).reshape(-1).tolist()]
    count = len(labels)
    paths = image_paths(batch, count)
    scores = _copy(getattr(predictions, "pred_score", None), torch.float32)
    if scores is not None and scores.size != count:
        msg = f"pred_score must hold one score an image, got {scores.size} scores for {count} images."
        raise ValueError(msg)
    anomaly_maps = _copy_pixels(getattr(predictions, "anomaly_map", None), torch.float32) if maps else None
    masks = _copy_pixels(getattr(batch, "gt_mask", None), torch.bool) if maps else None
    _check_sizes(anomaly_maps, masks, paths[0])
    annotated = _annotated(batch, labels, masks)
    return [
        ImageRecord(
            path=paths[i],
            anomalous=labels[i],
            score=None if scores is None else float(scores.flat[i]),
            anomaly_map=None if anomaly_maps is None else anomaly_maps[i],
            mask=masks[i] if masks is not None and annotated[i] else None,
        )
        for i in range(count)
    ]


def image_paths(batch: Batch, count: int) -> list[str]:
    """Return the path of each image of a batch.

    Args:
        batch: The batch.
        count: Number of its images.

    Returns:
        ``count`` paths, empty strings if the batch has none.
    """
    return getattr(batch, "image_path", None) or [""] * count


def _check_sizes(maps: NDArray[np.float32] | None, masks: NDArray[np.bool_] | None, path: str) -> None:
    """Reject maps and masks of different shapes."""
    if maps is None or masks is None or maps.shape == masks.shape:
        return
    of_image = f" of {path}" if path else ""
    msg = (
        f"anomaly_map {maps.shape} and gt_mask {masks.shape}{of_image} differ in size, so pixel metrics and thresholds "
        "for pixels cannot be computed. Make the model return maps of its input size, or resize both in its "
        "PreProcessor."
    )
    raise ValueError(msg)


def _annotated(batch: Batch, labels: list[bool], masks: NDArray[np.bool_] | None) -> list[bool]:
    """Tell which images have a real mask.

    A batch holds a mask for each image or for none, so an anomalous image that nobody annotated comes with an empty
    one, recognised by its empty ``mask_path``. The empty mask of a normal image is a fact.
    """
    paths = getattr(batch, "mask_path", None)
    if masks is None or paths is None:
        return [True] * len(labels)
    return [
        not anomalous or path not in {"", "nan", "None"} or bool(mask.any())
        for anomalous, path, mask in zip(labels, paths, masks, strict=True)
    ]


def _copy_pixels(tensor: torch.Tensor | None, dtype: torch.dtype) -> NDArray[Any] | None:
    """Copy B maps or masks, with or without an axis for their one channel, as B x H x W."""
    pixels = _copy(tensor, dtype)
    return None if pixels is None else pixels.reshape(-1, *pixels.shape[-2:])


def _copy(tensor: torch.Tensor | None, dtype: torch.dtype) -> NDArray[Any] | None:
    """Return a copy on the CPU that shares no memory with the model, or ``None`` for ``None``."""
    if tensor is None:
        return None
    return tensor.detach().as_subclass(torch.Tensor).to("cpu", dtype, copy=True).numpy()
