# SPDX-License-Identifier: Apache-2.0

"""What is said about two models' scores."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from made_up_packages import make_package, save_image

from anomalib_crad.deploy import Agreement, compare_with_openvino
from anomalib_crad.prediction import Prediction


def test_differences_are_counted_and_put_into_words() -> None:
    table = pd.DataFrame({
        "image_path": ["a.png", "b.png", "c.png"],
        "score": [0.1, 0.5, 0.9],
        "label": [False, False, True],
        "exported_score": [0.1, 0.52, 0.89],
        "exported_label": [False, True, True],
    })
    agreement = Agreement(table)
    assert agreement.largest_difference == pytest.approx(0.02)
    assert agreement.equal_labels == 2
    assert str(agreement).startswith("3 images: image scores differ by at most 2.0e-02")
    assert str(agreement).endswith("2 of 3 labels are equal.")


def test_a_score_that_is_not_a_number_is_not_taken_for_agreement() -> None:
    columns = ["image_path", "score", "label", "exported_score", "exported_label"]
    agreement = Agreement(pd.DataFrame([["a.png", 0.5, False, float("nan"), False]], columns=columns))
    assert "differ by at most nan" in str(agreement)


def test_an_exported_model_is_run_and_leaves_no_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model_path = make_package(tmp_path / "package").model_path
    paths = [save_image(tmp_path / f"{brightness}.png", brightness) for brightness in (51, 204)]
    predictions = [Prediction(str(path), 0.25, label=False, anomaly_map=np.zeros((4, 4))) for path in paths]
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    agreement = compare_with_openvino(predictions, model_path)
    assert agreement.table["image_path"].tolist() == [str(path) for path in paths]
    assert agreement.table["exported_score"].tolist() == pytest.approx([0.2, 0.8])
    assert agreement.table["exported_label"].tolist() == [False, True]
    assert agreement.equal_labels == 1
    assert not list(Path().iterdir())


def test_nothing_to_compare_is_an_error() -> None:
    with pytest.raises(ValueError, match="predictions is empty"):
        compare_with_openvino([], Path("model.xml"))
