# SPDX-License-Identifier: Apache-2.0

"""Tiny data sets in MVTec AD's layout for the tests of this folder."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

if TYPE_CHECKING:
    from pathlib import Path

MASK_PIXELS = 4 * 6


def write_image(path: Path, size: tuple[int, int] = (24, 16), mode: str = "RGB") -> Path:
    """Write a noisy image of a size (width, height), its own for every file of a data set, and return its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(list("/".join(path.parts[-4:]).encode()))
    pixels = rng.integers(0, 256, (size[1], size[0], 4), dtype=np.uint8)
    Image.fromarray(pixels, mode="RGBA").convert(mode).save(path)
    return path


def make_category(
    tmp_path: Path,
    name: str,
    train: int = 4,
    good: int = 2,
    bad: int = 2,
    size: tuple[int, int] = (24, 16),
    mode: str = "RGB",
) -> Path:
    """Write a category with these numbers of images into ``tmp_path/products`` and return its folder."""
    folder = tmp_path / "products" / name
    (folder / "train" / "good").mkdir(parents=True)
    for part, count in (("train/good", train), ("test/good", good), ("test/scratch", bad)):
        for index in range(count):
            write_image(folder / part / f"{index:03}.png", size, mode)
    mask = np.zeros((size[1], size[0]), dtype=np.uint8)
    mask[2:6, 3:9] = 255
    for index in range(bad):
        path = folder / "ground_truth" / "scratch" / f"{index:03}_mask.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(mask).save(path)
    return folder
