# SPDX-License-Identifier: Apache-2.0

"""Bad image files are found from their headers and ends, and named; unusual good ones pass."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from made_up_images import write_image
from PIL import Image

from anomalib_crad.data.image_files import read_header, reject_bad_image_files

if TYPE_CHECKING:
    from pathlib import Path


def truncate(path: Path, keep: float = 0.5) -> Path:
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * keep)])
    return path


@pytest.mark.parametrize(
    ("mode", "suffix"),
    [("1", "png"), ("L", "png"), ("LA", "png"), ("P", "png"), ("RGB", "bmp"), ("RGBA", "png"), ("CMYK", "jpg")],
)
def test_eight_bit_images_of_any_channels_pass(tmp_path: Path, mode: str, suffix: str) -> None:
    reject_bad_image_files([str(write_image(tmp_path / f"image.{suffix}", mode=mode))])


def test_a_header_tells_size_and_mode(tmp_path: Path) -> None:
    header = read_header(str(write_image(tmp_path / "image.png", size=(24, 16), mode="LA")))
    assert (header.size, header.mode, header.is_clipped_by_rgb) == ((24, 16), "LA", False)


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_sixteen_bit_grey_image_is_an_error_with_path_mode_and_remedy(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"deep.{suffix}"
    Image.fromarray(np.full((4, 4), 40_000, dtype=np.uint16)).save(path)
    with pytest.raises(ValueError, match=rf"{path}' \(mode I;16.*convert them to 8 bits"):
        reject_bad_image_files([str(path)])


def test_sixteen_bit_mask_passes(tmp_path: Path) -> None:
    path = tmp_path / "mask.png"
    Image.fromarray(np.full((4, 4), 1, dtype=np.uint16)).save(path)
    reject_bad_image_files([], masks=[str(path)])


@pytest.mark.parametrize("content", [b"", b"no image at all"])
def test_file_that_is_no_image_is_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "notes.png"
    path.write_bytes(content)
    with pytest.raises(OSError, match=rf"Cannot read the image '{path}'.*Replace the file"):
        reject_bad_image_files([str(path)])


@pytest.mark.parametrize("suffix", ["png", "jpg"])
def test_truncated_image_is_named_though_its_header_is_whole(tmp_path: Path, suffix: str) -> None:
    path = truncate(write_image(tmp_path / f"cut.{suffix}", size=(64, 64)))
    with pytest.raises(OSError, match=rf"Cannot read the image '{path}'"):
        reject_bad_image_files([str(path)])


def test_truncated_mask_is_named_as_a_mask(tmp_path: Path) -> None:
    path = truncate(write_image(tmp_path / "cut.png", size=(64, 64), mode="L"))
    with pytest.raises(OSError, match=rf"Cannot read the mask '{path}'"):
        reject_bad_image_files([], masks=[str(path)])


@pytest.mark.parametrize("suffix", ["png", "jpg"])
def test_bytes_after_the_end_of_an_image_are_legal(tmp_path: Path, suffix: str) -> None:
    path = write_image(tmp_path / f"tail.{suffix}")
    path.write_bytes(path.read_bytes() + b"a camera's own notes")
    reject_bad_image_files([str(path)])


def test_many_bad_files_are_counted_and_not_all_listed(tmp_path: Path) -> None:
    for index in range(8):
        (tmp_path / f"{index}.png").write_bytes(b"")
    with pytest.raises(OSError, match="and 3 more") as error:
        reject_bad_image_files([str(path) for path in sorted(tmp_path.iterdir())])
    assert str(error.value).count("Cannot read") == 5
