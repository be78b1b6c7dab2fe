# SPDX-License-Identifier: Apache-2.0

"""Whole or not at all."""

from __future__ import annotations

import tempfile
from typing import TYPE_CHECKING, NoReturn

import pytest

from anomalib_crad.deploy.whole_folder import written_whole

if TYPE_CHECKING:
    from pathlib import Path


def test_the_folder_appears_when_all_is_written(tmp_path: Path) -> None:
    target = tmp_path / "above" / "folder"
    with written_whole(target) as whole:
        (whole / "file").write_text("content")
        assert not target.exists()
    assert (target / "file").read_text() == "content"
    assert list(target.parent.iterdir()) == [target]


def test_nothing_is_left_of_a_run_that_breaks_off(tmp_path: Path) -> None:
    def break_off() -> None:
        with written_whole(tmp_path / "folder") as whole:
            (whole / "half").write_text("con")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        break_off()
    assert not list(tmp_path.iterdir())


def test_what_is_there_already_stays(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(FileExistsError, match=r"exists already\. Delete it"), written_whole(tmp_path / "folder"):
        pass
    assert not list((tmp_path / "folder").iterdir())


def test_a_read_only_folder_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> NoReturn:
        raise PermissionError(13, "Permission denied")

    # Permissions do not stop the administrator, who may run these tests.
    monkeypatch.setattr(tempfile, "mkdtemp", refuse)
    with pytest.raises(OSError, match=r"Cannot write into '.*Permission denied.*mend its permissions"):
        written_whole(tmp_path / "folder").__enter__()  # noqa: PLC2801 - never entered


def test_a_file_in_the_way_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="Cannot write into"):
        written_whole(tmp_path / "file" / "folder").__enter__()  # noqa: PLC2801 - never entered
