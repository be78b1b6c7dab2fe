# SPDX-License-Identifier: Apache-2.0

"""The front of the room: its names, the lists that they are in, and the deprecated place of one of them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import anomalib_crad
import anomalib_crad.data
from anomalib_crad.data.inspection.datamodule import check_datamodule
from anomalib_crad.data.mvtec import MVTec

try:
    import tomllib
except ModuleNotFoundError:  # Python 3.10
    tomllib = None  # type: ignore[assignment]

DATAMODULES = {"Elpv", "MVTec", "MultiCategory"}
PYPROJECT = Path(__file__).parents[3] / "pyproject.toml"


def test_every_public_name_can_be_imported() -> None:
    assert set(anomalib_crad.data.__all__) == DATAMODULES | {
        "DataReport",
        "Problem",
        "SubsetSummary",
        "check_datamodule",
    }
    for name in anomalib_crad.data.__all__:
        assert getattr(anomalib_crad.data, name).__name__ == name
    assert anomalib_crad.data.MVTec is anomalib_crad.MVTec is MVTec
    assert set(anomalib_crad.data.__all__) <= set(dir(anomalib_crad.data))


@pytest.mark.skipif(tomllib is None, reason="needs tomllib of Python 3.11")
def test_both_lists_of_datamodules_agree() -> None:
    declared = tomllib.loads(PYPROJECT.read_text(encoding="utf-8"))["project"]["entry-points"]["anomalib.data"]
    assert set(declared) == DATAMODULES
    for name, value in declared.items():
        module, _, attribute = value.partition(":")
        assert attribute == name
        assert getattr(anomalib_crad, name).__module__ == module


def test_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match=r"module 'anomalib_crad.data' has no attribute 'MVTecAD'"):
        _ = anomalib_crad.data.MVTecAD


def test_importing_the_room_imports_no_datamodule() -> None:
    code = "import sys, anomalib_crad.data; sys.exit('anomalib_crad.data.inspection.datamodule' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_old_place_of_the_check_still_works() -> None:
    with pytest.deprecated_call(match="Import `check_datamodule` from `anomalib_crad.data`"):
        from anomalib_crad.data.check import check_datamodule as old
    assert old is check_datamodule


def test_other_names_of_the_old_place_are_attribute_errors() -> None:
    from anomalib_crad.data import check

    with pytest.raises(AttributeError, match="no attribute 'main'"):
        _ = check.main
