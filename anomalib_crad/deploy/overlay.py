# SPDX-License-Identifier: Apache-2.0

"""An image with its heat map on it, in anomalib's colours, and what the model calls it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from anomalib.visualization.image.functional import add_text_to_image, overlay_image, visualize_anomaly_map
from PIL import Image

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from anomalib_crad.prediction import Prediction

_HEAT_MAP_OPACITY = 0.5


def draw_overlay(image: NDArray[np.uint8], prediction: Prediction) -> Image.Image:
    """Lay the heat map over an image and write score and label on it.

    Colours span 0 to 1 in every picture: green is the threshold, blue is normal, red is anomalous.

    Args:
        image: Height x width x 3 bytes.
        prediction: What the model says of it, with the map in (0, 1).

    Returns:
        A picture of the image's size.
    """
    height, width = image.shape[:2]
    heat_map = visualize_anomaly_map(prediction.anomaly_map).resize((width, height), Image.Resampling.BILINEAR)
    picture = overlay_image(Image.fromarray(image), heat_map, _HEAT_MAP_OPACITY)
    text = f"{prediction.score:.2f} {'anomalous' if prediction.label else 'normal'}"
    return add_text_to_image(picture, text, size=max(height // 16, 10), position=(6, 6))
