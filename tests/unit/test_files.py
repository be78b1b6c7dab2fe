# SPDX-License-Identifier: Apache-2.0

"""Files of an export appear whole or not at all."""

from __future__ import annotations

import errno
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from anomalib.deploy import ExportType

from anomalib_crad.export.whole_files import write_whole

if TYPE_CHECKING:
    from collections.abc import Callable

FOLDER = Path("weights", "openvino")


def writer(xml: str, weights: str = "weights", *, breaks: bool = False, name: str = "model") -> Callable[[Path], Path]:
    def write(root: Path) -> Path:
        folder = root / FOLDER
        folder.mkdir(parents=True)
        (folder / f"{name}.bin").write_text(weights)
        if breaks:
            msg = "no space left on device"
            raise RuntimeError(msg)
        (folder / f"{name}.xml").write_text(xml)
        return folder / f"{name}.xml"

    return write


def never(root: Path) -> Path:
    pytest.fail(f"exported to {root}")


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_all_files_arrive_and_nothing_else(tmp_path: Path) -> None:
    path = write_whole(tmp_path / "new", ExportType.OPENVINO, writer("new"))
    assert path == tmp_path / "new" / FOLDER / "model.xml"
    assert path.read_text() == "new"
    assert names(path.parent) == ["model.bin", "model.xml"]


def test_an_earlier_export_is_replaced_and_one_of_another_name_stays(tmp_path: Path) -> None:
    write_whole(tmp_path, ExportType.OPENVINO, writer("old", "old weights"))
    write_whole(tmp_path, ExportType.OPENVINO, writer("other", name="other"))
    path = write_whole(tmp_path, ExportType.OPENVINO, writer("new", "new weights"))
    assert (path.read_text(), path.with_suffix(".bin").read_text()) == ("new", "new weights")
    assert names(path.parent) == ["model.bin", "model.xml", "other.bin", "other.xml"]


def test_a_broken_export_leaves_the_earlier_one_as_it_was(tmp_path: Path) -> None:
    path = write_whole(tmp_path, ExportType.OPENVINO, writer("old", "old weights"))
    with pytest.raises(RuntimeError, match="no space left"):
        write_whole(tmp_path, ExportType.OPENVINO, writer("new", "new weights", breaks=True))
    assert (path.read_text(), path.with_suffix(".bin").read_text()) == ("old", "old weights")
    assert names(path.parent) == ["model.bin", "model.xml"]


def test_a_broken_first_export_leaves_no_folders(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    with pytest.raises(RuntimeError, match="no space left"):
        write_whole(tmp_path / "mine" / "new", ExportType.OPENVINO, writer("new", breaks=True))
    assert names(tmp_path) == ["mine"]
    assert not names(tmp_path / "mine")


def test_a_break_between_two_files_leaves_no_description_with_the_weights_of_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_whole(tmp_path, ExportType.OPENVINO, writer("old", "old weights"))
    replace = Path.replace

    def break_at_the_last(source: Path, target: Path) -> Path:
        if target.suffix == ".xml":
            raise KeyboardInterrupt
        return replace(source, target)

    monkeypatch.setattr(Path, "replace", break_at_the_last)
    with pytest.raises(KeyboardInterrupt):
        write_whole(tmp_path, ExportType.OPENVINO, writer("new", "new weights"))
    assert names(path.parent) == ["model.bin"]


def test_a_folder_below_a_file_is_refused_before_anything_is_done(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(
        OSError, match=r"export_root='.*file/below' cannot be written to \(Not a directory.*--export_root"
    ):
        write_whole(tmp_path / "file" / "below", ExportType.ONNX, never)


def test_a_read_only_folder_is_refused_before_anything_is_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Made up: the super-user, as whom tests may run, can write anywhere.
    def refuse(*_: object, **__: object) -> str:
        raise PermissionError(errno.EACCES, "Permission denied", str(tmp_path))

    monkeypatch.setattr(tempfile, "mkdtemp", refuse)
    with pytest.raises(PermissionError, match=r"cannot be written to \(Permission denied"):
        write_whole(tmp_path, ExportType.ONNX, never)
