# SPDX-License-Identifier: Apache-2.0

"""Images as an exported model gets them: a file, or the pixels that a camera delivers.

Files are read as anomalib reads them for training, by Pillow and as RGB: of 16-bit colours it takes the upper 8 bits.
What Pillow would clip without a word, grey of more than 8 bits, is refused, as it is refused in the training data.
"""

from __future__ import annotations

from pathlib import Path
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from anomalib_crad.data.image_files import READ_ERRORS, reject_bad_image_files, unreadable

#: A file, or pixels: height x width x RGB or height x width, 8 bits.
Frame: TypeAlias = str | Path | NDArray[np.uint8]


def read_frame(frame: Frame) -> NDArray[np.uint8]:
    """Return the pixels of an image.

    Args:
        frame: A file, or pixels of 8 bits: height x width x 3 in the order red, green, blue (OpenCV delivers blue
            first: ``image[..., ::-1]``), or height x width of a grey camera.

    Returns:
        Height x width x 3 bytes, red first.

    Raises:
        OSError: If the file is missing or cannot be decoded.
        ValueError: If the file is grey and holds more than 8 bits, or pixels are of another shape or type.
    """
    if isinstance(frame, np.ndarray):
        return _rgb(frame)
    reject_bad_image_files([str(frame)])
    try:
        with Image.open(frame) as image:
            return np.array(image.convert("RGB"))
    except READ_ERRORS as error:
        raise unreadable(str(frame), "image", error) from error


def _rgb(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    grey, colour = pixels.ndim == 2, pixels.ndim == 3 and pixels.shape[2] == 3
    if pixels.dtype != np.uint8 or not (grey or colour) or not pixels.size:
        msg = (
            f"pixels must be uint8 of shape height x width x 3 or height x width, got {pixels.dtype} of shape "
            f"{pixels.shape}."
        )
        raise ValueError(msg)
    # A copy, since cameras write the next image into the same memory.
    return np.array(pixels if colour else np.repeat(pixels[..., None], 3, axis=2), order="C")
