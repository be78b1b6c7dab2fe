# SPDX-License-Identifier: Apache-2.0

"""What comes in as an image, and what does not."""

from __future__ import annotations

from typing import TYPE_CHECKING

import cv2
import numpy as np
import pytest
from PIL import Image

from anomalib_crad.deploy import read_frame

if TYPE_CHECKING:
    from pathlib import Path


def test_files_become_rgb(tmp_path: Path) -> None:
    colours = np.random.default_rng(0).integers(0, 256, (5, 7, 3), np.uint8)
    Image.fromarray(colours).save(tmp_path / "colour.png")
    np.testing.assert_array_equal(read_frame(tmp_path / "colour.png"), colours)
    Image.fromarray(colours[..., 0]).save(tmp_path / "grey.png")
    np.testing.assert_array_equal(read_frame(str(tmp_path / "grey.png")), colours[..., [0, 0, 0]])


def test_pixels_of_colour_and_grey_cameras() -> None:
    colours = np.random.default_rng(0).integers(0, 256, (5, 7, 3), np.uint8)
    np.testing.assert_array_equal(read_frame(colours), colours)
    swapped = read_frame(colours[..., ::-1])  # as users of OpenCV do
    np.testing.assert_array_equal(swapped, colours[..., ::-1])
    assert swapped.flags.c_contiguous
    np.testing.assert_array_equal(read_frame(colours[..., 1]), colours[..., [1, 1, 1]])


@pytest.mark.parametrize(
    "pixels",
    [
        np.zeros((4, 4, 3), np.float32),
        np.zeros((4, 4, 4), np.uint8),
        np.zeros((2, 4, 4, 3), np.uint8),
        np.zeros((0, 4, 3), np.uint8),
    ],
)
def test_other_pixels_are_refused(pixels: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"pixels must be uint8 of shape height x width x 3 or height x width, got"):
        read_frame(pixels)


def test_files_that_cannot_be_decoded_are_named(tmp_path: Path) -> None:
    broken = tmp_path / "broken.bmp"
    Image.fromarray(np.zeros((64, 64, 3), np.uint8)).save(broken)
    broken.write_bytes(broken.read_bytes()[:2000])
    with pytest.raises(OSError, match=r"Cannot read the image '.*broken\.bmp'"):
        read_frame(broken)
    with pytest.raises(OSError, match=r"Cannot read the image '.*missing\.png'"):
        read_frame(tmp_path / "missing.png")


def test_of_sixteen_bit_colours_the_upper_eight_count(tmp_path: Path) -> None:
    colours = np.random.default_rng(0).integers(0, 1 << 16, (5, 7, 3), np.uint16)
    cv2.imwrite(str(tmp_path / "deep.png"), colours[..., ::-1])
    np.testing.assert_array_equal(read_frame(tmp_path / "deep.png"), colours >> 8)


def test_files_that_would_be_clipped_are_refused(tmp_path: Path) -> None:
    Image.fromarray(np.zeros((4, 4), np.uint16)).save(tmp_path / "deep.png")
    with pytest.raises(ValueError, match="more than 8 bits a channel"):
        read_frame(tmp_path / "deep.png")
