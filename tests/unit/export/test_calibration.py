# SPDX-License-Identifier: Apache-2.0

"""Images for quantisation are those of the dataset as they are on disk, spread over all of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from anomalib.data import ImageItem
from torchvision.transforms.v2 import RandomInvert, Resize, functional

from anomalib_crad import MVTec
from anomalib_crad.export.calibration import GraphImages

if TYPE_CHECKING:
    from pathlib import Path


class Numbered:
    """Ten images, each filled with a tenth of its number, of heights 4 to 13."""

    augmentations: Any = None

    def __len__(self) -> int:
        """Count them."""
        return 10

    def __getitem__(self, index: int) -> ImageItem:
        """Make one."""
        image = torch.full((3, 4 + index, 5), index / 10)
        return ImageItem(image=self.augmentations(image) if self.augmentations else image)


def numbers(images: GraphImages) -> list[int]:
    return [round(float(image.mean()) * 10) for image in images]


def test_all_images_as_they_are() -> None:
    images = GraphImages(Numbered())  # type: ignore[arg-type]
    assert numbers(images) == list(range(10))
    assert [image.shape for image in images] == [(1, 3, 4 + index, 5) for index in range(10)]
    assert images[0].dtype == np.float32


@pytest.mark.parametrize(("limit", "expected"), [(2, [0, 9]), (4, [0, 3, 6, 9]), (99, list(range(10)))])
def test_a_few_images_are_spread_over_the_dataset(limit: int, expected: list[int]) -> None:
    assert numbers(GraphImages(Numbered(), limit=limit)) == expected  # type: ignore[arg-type]


def test_a_graph_of_one_size_gets_it_by_the_models_own_resize() -> None:
    dataset = Numbered()
    images = GraphImages(dataset, input_size=(7, 6))  # type: ignore[arg-type]
    assert {image.shape for image in images} == {(1, 3, 7, 6)}
    noise = torch.rand(3, 40, 50)
    expected = functional.resize(noise, [7, 6], antialias=False)
    np.testing.assert_array_equal(images.to_input(ImageItem(image=noise))[0], expected.numpy())


def test_augmentations_are_left_out_and_stay_the_datasets() -> None:
    dataset = Numbered()
    dataset.augmentations = RandomInvert(p=1.0)
    assert numbers(GraphImages(dataset)) == list(range(10))  # type: ignore[arg-type]
    assert dataset.augmentations is not None


def test_a_datamodule_whose_images_a_trainer_resizes(tiny_root: Path) -> None:
    datamodule = MVTec(root=tiny_root, category=["blue", "green"], num_workers=0, train_augmentations=Resize((8, 8)))
    datamodule.setup("fit")
    images = GraphImages(datamodule.train_data, limit=4)
    assert {image.shape for image in images} == {(1, 3, 64, 64)}
    assert [str(images.item(row).image_path).split("/")[-4] for row in range(4)] == ["blue", "blue", "green", "green"]
