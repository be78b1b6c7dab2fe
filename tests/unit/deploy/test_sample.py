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


def datamodule(labels: list[int], category: str = "") -> AnomalibDataModule:
    samples = pd.DataFrame({"image_path": [f"{i}.png" for i in range(len(labels))], "label_index": labels})
    data = SimpleNamespace(
        setup=lambda: None, test_data=SimpleNamespace(samples=samples), category=category, name="Set"
    )
    return cast("AnomalibDataModule", data)


def test_the_sample_is_anomalous_where_there_is_one() -> None:
    assert choose_sample(datamodule([0, 0, 1, 1])) == Path("2.png")
    assert choose_sample(datamodule([0, 0])) == Path("0.png")
    with pytest.raises(ValueError, match=r"Name one with --sample, or images with --data or --config"):
        choose_sample(None)


def test_names_of_categories(tiny_root: Path) -> None:
    assert category_names(None) == ()
    assert category_names(MVTec(root=tiny_root, category=["blue", "green"])) == ("blue", "green")
    assert category_names(datamodule([0], "bottle")) == ("bottle",)
    assert category_names(datamodule([0])) == ("Set",)
