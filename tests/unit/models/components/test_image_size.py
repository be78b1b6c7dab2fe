# SPDX-License-Identifier: Apache-2.0

"""One size for pre-processor and network, wherever it was given."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from anomalib.pre_processing import PreProcessor
from torchvision.transforms.v2 import CenterCrop, Compose, Normalize, Resize

from anomalib_crad.models.components.image_size import resize_and_normalise, resolve_image_size


def test_the_default_is_the_papers() -> None:
    assert resolve_image_size(None, pre_processor=True) == (224, 224)
    assert resolve_image_size(None, pre_processor=False) == (224, 224)


def test_image_size_or_the_pre_processors_output_is_taken() -> None:
    crop = PreProcessor(Compose([Resize((64, 96)), CenterCrop((32, 64))]))
    assert resolve_image_size([96, 32], pre_processor=True) == (96, 32)
    assert resolve_image_size(None, crop) == (32, 64)
    assert resolve_image_size((32, 64), crop) == (32, 64)
    assert resolve_image_size((32, 64), PreProcessor(Normalize([0.5] * 3, [0.5] * 3))) == (32, 64)


def test_contradiction_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"image_size is \(32, 32\), but pre_processor resizes to \(64, 64\)"):
        resolve_image_size((32, 32), PreProcessor(Resize((64, 64))))


@pytest.mark.parametrize("image_size", [[224], [1, 2, 3], [0, 64], [-32, 32], 224, "224", ["32", "32"], [32.5, 32]])
def test_anything_but_two_positive_whole_numbers_is_an_error(image_size: Any) -> None:  # noqa: ANN401
    with pytest.raises(ValueError, match="image_size must be height and width, two positive whole numbers"):
        resolve_image_size(image_size, pre_processor=True)


def test_training_and_exported_graph_resize_alike() -> None:
    pre_processor = resize_and_normalise((32, 48))
    images = torch.rand(1, 3, 100, 70)
    assert pre_processor.transform is not None
    torch.testing.assert_close(pre_processor.transform(images), pre_processor(images))
