# SPDX-License-Identifier: Apache-2.0

"""What is wrong with an image file, found before training starts.

anomalib opens images one by one while it trains, so a broken file stops a run after minutes or hours and the error
does not say which file it was. Worse, Pillow's conversion to RGB clips 16-bit grey images to white without a word, in
training and in every inferencer alike. Reading the headers of a data set costs some tens of microseconds a file, so it
is done once, for all files, when the data are set up.
"""

from __future__ import annotations

import os
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

READ_ERRORS = (OSError, SyntaxError, ValueError, EOFError, struct.error, zlib.error, Image.DecompressionBombError)
"""What Pillow raises, depending on format and damage, for a file that it cannot decode."""

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
        what: What it is, in a word: ``"image"`` or ``"mask"``.
        error: What Pillow said.

    Returns:
        An error that names the file and the remedy, to be raised by the caller.
    """
    reason = str(error) or type(error).__name__
    msg = f"Cannot read the {what} '{path}': {reason}. Replace the file, or delete it together with its mask or image."
    return OSError(msg)


@dataclass(frozen=True)
class ImageHeader:
    """What the header of an image file says.

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
    """Read the header of an image file, and look whether the end of a PNG or JPEG file is there.

    Pixels are decoded only where the end looks wrong; damage in the middle of a file is found when the image is first
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
            image.load()  # bytes after the end are legal, so only decoding tells whether something is missing
    return header


def check_image_files(images: Iterable[str], masks: Iterable[str] = ()) -> None:
    """Check the headers, and the ends of PNG and JPEG files, of all images and masks.

    Args:
        images: Paths of images. They must hold 8 bits a channel (or 1), in any number of channels.
        masks: Paths of masks. Any depth will do, since a mask is true wherever it is above 0.

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
    """Join the first few items, and count the others.

    Args:
        items: The items.

    Returns:
        One line.
    """
    more = len(items) - _MAX_LISTED
    return "; ".join(items[:_MAX_LISTED]) + (f"; and {more} more" if more > 0 else "")
