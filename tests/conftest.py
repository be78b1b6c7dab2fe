# SPDX-License-Identifier: Apache-2.0

"""Fixtures that tests of several parts share: recorded numbers, real images, and a tiny data set.

Recorded numbers and real images lie beside the repository; tests that need them are skipped where they are not.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

SHARED = Path(__file__).parents[2] / "shared"


@pytest.fixture(scope="session")
def golden() -> Callable[[str], Mapping[str, np.ndarray]]:
    """Numbers recorded by running the authors' release, by the name of their file."""

    def read(name: str) -> Mapping[str, np.ndarray]:
        path = SHARED / "golden" / f"{name}.npz"
        if not path.is_file():
            pytest.skip(f"{name}.npz is not beside the repository")
        return np.load(path)

    return read


@pytest.fixture(scope="session")
def real_images() -> Path:
    """Four categories of real images in the layout of MVTec AD."""
    if not (SHARED / "data").is_dir():
        pytest.skip("the real images are not beside the repository")
    return SHARED / "data"


@pytest.fixture(scope="session")
def tiny_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two categories of 64 x 64 images in the layout of MVTec AD: 8 to train, 4 good and 4 anomalous to test."""
    root = tmp_path_factory.mktemp("data") / "TinyMVTec"
    rng = np.random.default_rng(0)
    for category, colour in {"blue": (40, 60, 200), "green": (40, 200, 60)}.items():
        for split, label, count in [("train", "good", 8), ("test", "good", 4), ("test", "scratch", 4)]:
            for number in range(count):
                image = rng.normal(colour, 8, (64, 64, 3)).clip(0, 255).astype(np.uint8)
                if label == "scratch":
                    image[20:40, 24:32] = 255
                    mask = np.zeros((64, 64), np.uint8)
                    mask[20:40, 24:32] = 255
                    _save(mask, root / category / "ground_truth" / label / f"{number:03}_mask.png")
                _save(image, root / category / split / label / f"{number:03}.png")
    return root


def _save(pixels: np.ndarray, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
