# SPDX-License-Identifier: Apache-2.0

"""Headers of image files, and the files that are rejected because of them before training starts.

anomalib opens images one by one while it trains, so a broken file stops a run after minutes or hours, and the error
does not name the file. Worse, Pillow's conversion to RGB silently clips 16-bit grey images to white, in training and in
every inferencer alike. Reading a header takes some tens of microseconds, so all headers are read once, when the data
are set up.
"""

from __future__ import annotations

import os
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

READ_ERRORS = (OSError, SyntaxError, ValueError, EOFError, struct.error, zlib.error, Image.DecompressionBombError)
"""Errors that Pillow raises, depending on format and damage, for a file that it cannot decode."""

DEPTH_REMEDY = (
    "anomalib's datasets and inferencers convert images with Pillow, which would clip these to white; convert them to "
    "8 bits first, for training and for prediction in the same way."
)

_FILE_ENDS = {"PNG": b"\x00\x00\x00\x00IEND\xaeB`\x82", "JPEG": b"\xff\xd9"}
_MAX_LISTED = 5


def unreadable(path: str, what: str, error: Exception) -> OSError:
    """Build the error for a file that cannot be decoded.

    Args:
        path: The file.
        what: ``"image"`` or ``"mask"``.
        error: The error that Pillow raised.

    Returns:
        An error that names the file and the remedy, for the caller to raise.
    """
    reason = str(error) or type(error).__name__
    msg = f"Cannot read the {what} '{path}': {reason}. Replace the file, or delete it together with its mask or image."
    return OSError(msg)


@dataclass(frozen=True)
class ImageHeader:
    """Size and mode of an image, from the header of its file.

    Attributes:
        size: Width and height in pixels.
        mode: Pillow's name of the channels and their depth, such as ``"RGB"`` or ``"I;16"``.
    """

    size: tuple[int, int]
    mode: str

    @property
    def is_clipped_by_rgb(self) -> bool:
        """Whether ``convert("RGB")`` clips this mode instead of scaling it; colour images of 16 bits open scaled."""
        return self.mode in {"I", "F"} or self.mode.startswith("I;")


def read_header(path: str) -> ImageHeader:
    """Read the header of an image file, and check that a PNG or JPEG file is not cut off.

    Pixels are decoded only where the end looks wrong. Damage in the middle of a file goes unnoticed until the image is
    read.

    Args:
        path: The file.

    Returns:
        The header.

    Raises:
        OSError: If the file is missing, is no image, or is truncated; the others of ``READ_ERRORS`` likewise.
    """
    with Path(path).open("rb") as file, Image.open(file) as image:
        end = _FILE_ENDS.get(image.format or "")
        header = ImageHeader(image.size, image.mode)
        if end is not None and not _ends_with(file.fileno(), end):
            image.load()  # bytes after the end are legal, so only decoding shows that pixels are missing
    return header


def read_mask_share(path: str) -> float:
    """Decode a mask, and measure how much of the image it marks as anomalous.

    Args:
        path: The mask.

    Returns:
        Share of the pixels that are true as anomalib reads masks: grey value above 0, transparency dropped.

    Raises:
        OSError: If the file cannot be decoded; the others of ``READ_ERRORS`` likewise.
    """
    with Image.open(path) as image:
        return float((np.asarray(image.convert("L")) > 0).mean())


def reject_bad_image_files(images: Iterable[str], masks: Iterable[str] = ()) -> None:
    """Reject image and mask files that anomalib could not read, and images that it would clip.

    Args:
        images: Paths of images. They must hold 8 bits a channel (or 1), in any number of channels.
        masks: Paths of masks, of any depth, since a mask is true wherever it is above 0.

    Raises:
        OSError: If a file is missing, is no image, or is truncated; the message names the files.
        ValueError: If an image holds more than 8 bits a channel; the message names the files and their modes.
    """
    broken: list[str] = []
    deep: list[str] = []
    for what, paths in (("image", images), ("mask", masks)):
        for path in paths:
            try:
                header = read_header(path)
            except READ_ERRORS as error:
                broken.append(str(unreadable(path, what, error)))
                continue
            if what == "image" and header.is_clipped_by_rgb:
                deep.append(f"'{path}' (mode {header.mode})")
    if broken:
        raise OSError(listed(broken))
    if deep:
        msg = f"Images with more than 8 bits a channel: {listed(deep)}. {DEPTH_REMEDY}"
        raise ValueError(msg)


def _ends_with(descriptor: int, end: bytes) -> bool:
    size = os.fstat(descriptor).st_size
    position = os.lseek(descriptor, 0, os.SEEK_CUR)
    os.lseek(descriptor, max(size - len(end), 0), os.SEEK_SET)
    found = os.read(descriptor, len(end))
    os.lseek(descriptor, position, os.SEEK_SET)
    return found == end


def listed(items: Sequence[str]) -> str:
    """Join the first items, and count the others.

    Args:
        items: The items.

    Returns:
        One line.
    """
    more = len(items) - _MAX_LISTED
    return "; ".join(items[:_MAX_LISTED]) + (f"; and {more} more" if more > 0 else "")
