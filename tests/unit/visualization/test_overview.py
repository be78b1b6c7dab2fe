# SPDX-License-Identifier: Apache-2.0

"""The picture of a whole run: rows of every category, spread over the scores."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from anomalib_crad.prediction import Prediction
from anomalib_crad.visualization import overview, save_overview

if TYPE_CHECKING:
    from pathlib import Path


def predictions(folder: Path, count: int) -> list[Prediction]:
    made = []
    for number in range(count):
        path = folder / f"{number}.png"
        Image.new("RGB", (20, 10)).save(path)
        made.append(Prediction(str(path), score=number / count, label=False, anomaly_map=np.zeros((16, 16))))
    return made


@pytest.mark.parametrize("categories", [["a", "a", "a", "b", "b", "b"], None], ids=["two", "no category"])
def test_a_picture_is_saved_whatever_the_frame_knows(tmp_path: Path, categories: list[str] | None) -> None:
    made = predictions(tmp_path, 6)
    samples = pd.DataFrame({"image_path": [each.image_path for each in made], "label_index": [0, 0, 1, 0, 1, 1]})
    if categories is not None:
        samples["category"] = categories
    path = save_overview(made, samples, tmp_path / "overview.png")
    rows = 2 * len(set(categories or ["all"]))
    with Image.open(path) as picture:
        assert picture.height == pytest.approx(rows * 1.55 * 1.12 * 110, abs=rows)


def test_more_columns_than_images_show_each_once(tmp_path: Path) -> None:
    made = predictions(tmp_path, 3)
    samples = pd.DataFrame({"image_path": [each.image_path for each in made], "label_index": [0] * 3})
    ((_, shown),) = overview._rows({each.image_path: each for each in made}, samples, columns=5)
    assert shown == made


def test_predictions_of_other_images_are_an_error(tmp_path: Path) -> None:
    samples = pd.DataFrame({"image_path": ["elsewhere.png"], "label_index": [0]})
    with pytest.raises(ValueError, match="nothing to draw"):
        save_overview(predictions(tmp_path, 1), samples, tmp_path / "overview.png")


def test_rows_show_the_whole_range_of_scores_in_order(tmp_path: Path) -> None:
    made = predictions(tmp_path, 9)
    samples = pd.DataFrame({"image_path": [each.image_path for each in reversed(made)], "label_index": [1] * 9})
    ((title, shown),) = overview._rows({each.image_path: each for each in made}, samples, columns=3)
    assert title == "all, anomalous"
    assert [each.score for each in shown] == pytest.approx([1 / 9, 4 / 9, 7 / 9])
