# SPDX-License-Identifier: Apache-2.0

"""Packages around a graph of a few operations, which score an image by its brightness, and images for them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import openvino
from openvino import opset13 as operations
from PIL import Image

from anomalib_crad.deploy import EdgePackage
from anomalib_crad.deploy.package import MODEL, write_metadata

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

MAP_SIZE = 4
LEVEL = {"threshold": 10.0, "scale": 2.0}
DARK_LEVEL = {"threshold": 6.0, "scale": 2.0}


def make_package(
    folder: Path,
    sides: tuple[int, int] = (-1, -1),
    *,
    fails_on_others: bool = False,
    limit: float = 0.5,
) -> EdgePackage:
    """Make a package whose map is the image's brightness, 4 x 4, and whose score is the map's maximum.

    Args:
        folder: Where to make it.
        sides: Height and width that the graph takes; -1 is any.
        fails_on_others: Whether the graph says that it takes any size, and then fails on all but 8 x 12.
        limit: Score above which an image is anomalous.
    """
    (folder / MODEL).parent.mkdir(parents=True)
    openvino.save_model(_graph(sides, limit, fails_on_others=fails_on_others), folder / MODEL, compress_to_fp16=False)
    save_image(folder / "sample.png", 200)
    metadata: dict[str, Any] = {
        "name": "Brightness",
        "thresholds": {
            "pooled": {"image": LEVEL, "pixel": LEVEL},
            "categories": {"dark": {"image": DARK_LEVEL, "pixel": DARK_LEVEL}},
            "normalized": True,
            "image_sensitivity": 1 - limit,
            "pixel_sensitivity": 0.5,
        },
        "sample": {"file": "sample.png", "score": 200 / 255, "label": True, "tolerance": 1e-3},
    }
    write_metadata(folder, metadata)
    return EdgePackage.open(folder)


def _graph(sides: tuple[int, int], limit: float, *, fails_on_others: bool) -> openvino.Model:
    image = operations.parameter([-1, 3, *sides], np.float32, name="input")
    image.output(0).set_names({"input"})
    grey = operations.reduce_mean(image, np.array([1]), keep_dims=True)
    if fails_on_others:
        grey = operations.reshape(grey, np.array([-1, 1, 8, 12]), special_zero=False)
    size = np.array([MAP_SIZE, MAP_SIZE])
    anomaly_map = operations.interpolate(grey, size, "linear_onnx", "sizes", axes=np.array([2, 3]))
    score = operations.reduce_max(anomaly_map, np.array([1, 2, 3]))
    outputs = {
        "pred_score": score,
        "pred_label": operations.greater(score, np.float32(limit)),
        "anomaly_map": anomaly_map,
        "pred_mask": operations.greater(anomaly_map, np.float32(0.5)),
    }
    for name, node in outputs.items():
        node.output(0).set_names({name})
    return openvino.Model(list(outputs.values()), [image], "brightness")


def save_image(path: Path, brightness: int, size: tuple[int, int] = (12, 8)) -> Path:
    """Save an image of one brightness.

    Args:
        path: Where.
        brightness: 0 to 255.
        size: Width and height.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (brightness,) * 3).save(path)
    return path


def pixels(brightness: int, height: int = 8, width: int = 12) -> NDArray[np.uint8]:
    """Return an image of one brightness."""
    return np.full((height, width, 3), brightness, np.uint8)
