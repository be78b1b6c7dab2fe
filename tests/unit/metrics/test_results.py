# SPDX-License-Identifier: Apache-2.0

"""The files of a test: what they hold, and that one that cannot be written does not cost the other."""

import json
from enum import Enum
from pathlib import Path, PurePosixPath

import numpy as np
import pytest
from omegaconf import OmegaConf

from anomalib_crad.metrics.category_report import CategoryReport, CategoryResult
from anomalib_crad.metrics.results import save_results
from anomalib_crad.provenance import json_value

REPORT = CategoryReport((CategoryResult("nut", 1, 1, {"image_AUROC": 0.5}),))


class Colour(Enum):
    """Something that JSON does not know."""

    RED = "red"


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ({"a": [1, 2.5, None, True, "x"], 3: (4,)}, {"a": [1, 2.5, None, True, "x"], "3": [4]}),
        (OmegaConf.create({"layers": ["layer1", 2]}), {"layers": ["layer1", 2]}),
        ([np.float32(0.5), np.int64(3)], [0.5, 3]),
        ([float("nan"), float("-inf")], ["nan", "-inf"]),
        ({"path": PurePosixPath("a/b"), "colour": Colour.RED}, {"path": "a/b", "colour": "red"}),
    ],
)
def test_anything_becomes_plain_data(value: object, expected: object) -> None:
    assert json_value(value) == expected
    json.dumps(json_value(value), allow_nan=False)


def test_both_files_hold_the_report_and_the_json_also_the_run(tmp_path: Path) -> None:
    save_results(tmp_path / "new", REPORT, {"seed": 3, "model": {"optimiser": object}})
    results = json.loads((tmp_path / "new" / "category_metrics.json").read_text(encoding="utf-8"))
    assert results["metrics"] == REPORT.to_dict()
    assert results["seed"] == 3
    assert results["model"] == {"optimiser": "<class 'object'>"}
    assert (tmp_path / "new" / "category_metrics.csv").read_text(encoding="utf-8").splitlines()[1] == "nut,0.5"


@pytest.mark.parametrize(("blocked", "other"), [("csv", "json"), ("json", "csv")])
def test_a_file_that_cannot_be_written_does_not_cost_the_other(
    blocked: str,
    other: str,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    (tmp_path / f"category_metrics.{blocked}").mkdir()
    save_results(tmp_path, REPORT, {})
    assert f"Could not write {tmp_path / 'category_metrics'}.{blocked}" in caplog.text
    assert (tmp_path / f"category_metrics.{other}").is_file()
