# SPDX-License-Identifier: Apache-2.0

"""What a package takes from the user's data."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, cast

import pandas as pd
import pytest

from anomalib_crad import MVTec
from anomalib_crad.deploy.sample import category_names, choose_sample

if TYPE_CHECKING:
    from anomalib.data import AnomalibDataModule


class StandIn(SimpleNamespace):
    """A datamodule that has its images once it was prepared and set up."""

    prepared = False

    def prepare_data(self) -> None:
        self.prepared = True

    def setup(self) -> None:
        assert self.prepared
        self.test_data = SimpleNamespace(samples=self.samples)


def datamodule(labels: list[int], category: str = "") -> AnomalibDataModule:
    samples = pd.DataFrame({"image_path": [f"{i}.png" for i in range(len(labels))], "label_index": labels})
    return cast("AnomalibDataModule", StandIn(samples=samples, category=category, name="Set"))


def test_the_sample_is_anomalous_where_there_is_one() -> None:
    assert choose_sample(datamodule([0, 0, 1, 1])) == Path("2.png")
    assert choose_sample(datamodule([0, 0])) == Path("0.png")
    with pytest.raises(ValueError, match=r"Name one with --sample, or images with --data or --config"):
        choose_sample(None)
    with pytest.raises(ValueError, match=r"no test images in Set\. Name an image with --sample"):
        choose_sample(datamodule([]))


def test_names_of_categories(tiny_root: Path) -> None:
    assert category_names(None) == ()
    assert category_names(MVTec(root=tiny_root, category=["blue", "green"])) == ("blue", "green")
    assert category_names(datamodule([0], "bottle")) == ("bottle",)
    assert category_names(datamodule([0])) == ("Set",)
