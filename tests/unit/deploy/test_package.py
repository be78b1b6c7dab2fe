# SPDX-License-Identifier: Apache-2.0

"""A package is complete and unaltered, or it is an error that says what is wrong."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from made_up_packages import make_package

from anomalib_crad.deploy import EdgePackage
from anomalib_crad.deploy.package import METADATA, README, write_metadata
from anomalib_crad.post_processing.rules import Threshold

if TYPE_CHECKING:
    from pathlib import Path


def test_a_package_knows_its_sample_and_its_thresholds(tmp_path: Path) -> None:
    package = make_package(tmp_path / "package")
    assert package.model_path.is_file()
    assert package.sample.path.is_file()
    assert package.sample.label
    assert package.thresholds.thresholds.of("dark").image == Threshold(6, 2)


def test_a_moved_package_with_other_files_and_an_edited_readme_is_whole(tmp_path: Path) -> None:
    moved = make_package(tmp_path / "package").folder.rename(tmp_path / "moved")
    (moved / README).write_text("Line 3")
    (moved / "notes.txt").write_text("Line 3")
    assert EdgePackage.open(moved).metadata["name"] == "Brightness"


@pytest.mark.parametrize("name", ["1/model.xml", "1/model.bin", "sample.png"])
def test_missing_and_altered_files_are_named(tmp_path: Path, name: str) -> None:
    folder = make_package(tmp_path / "package").folder
    content = (folder / name).read_bytes()
    (folder / name).write_bytes(content + b" ")
    with pytest.raises(ValueError, match=f"was altered: {name} is not as it was made"):
        EdgePackage.open(folder)
    (folder / name).unlink()
    with pytest.raises(FileNotFoundError, match=f"is incomplete: it lacks {name}"):
        EdgePackage.open(folder)


def test_altered_metadata_are_an_error_but_not_other_spaces(tmp_path: Path) -> None:
    folder = make_package(tmp_path / "package").folder
    content = json.loads((folder / METADATA).read_text())
    (folder / METADATA).write_text(json.dumps(content))
    EdgePackage.open(folder)
    content["thresholds"]["pooled"]["image"]["threshold"] = 1
    (folder / METADATA).write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"metadata\.json' was altered"):
        EdgePackage.open(folder)


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", "null"])
def test_damaged_metadata_are_an_error(tmp_path: Path, text: str) -> None:
    folder = make_package(tmp_path / "package").folder
    (folder / METADATA).write_text(text)
    with pytest.raises(ValueError, match="is damaged, or not that of a package"):
        EdgePackage.open(folder)


def test_any_folder_is_no_package(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"is no package: there is no metadata\.json"):
        EdgePackage.open(tmp_path)


def test_a_newer_format_asks_for_an_update(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = make_package(tmp_path / "package").folder
    monkeypatch.setattr("anomalib_crad.deploy.package.FORMAT", 99)
    write_metadata(folder, {"name": "of the future"})
    monkeypatch.undo()
    with pytest.raises(ValueError, match=r"has format 99, this version reads 1\. Update anomalib-crad"):
        EdgePackage.open(folder)
