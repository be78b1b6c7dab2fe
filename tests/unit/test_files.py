# SPDX-License-Identifier: Apache-2.0

"""Files appear whole or not at all."""

from __future__ import annotations

import errno
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import pytest
from anomalib.deploy import ExportType

from anomalib_crad.export.exportable import staged_export
from anomalib_crad.files import staged_file, staged_folder

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


def write_whole(export_root: Path, export_type: ExportType, write: Callable[[Path], Path]) -> Path:
    with staged_export(export_root, export_type) as root:
        path = write(root)
    return export_root / path.relative_to(root)


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


def test_the_folder_appears_when_all_is_written(tmp_path: Path) -> None:
    target = tmp_path / "above" / "folder"
    with staged_folder(target) as whole:
        (whole / "file").write_text("content")
        assert not target.exists()
    assert (target / "file").read_text() == "content"
    assert list(target.parent.iterdir()) == [target]


def test_nothing_is_left_of_a_run_that_breaks_off(tmp_path: Path) -> None:
    def break_off() -> None:
        with staged_folder(tmp_path / "folder") as whole:
            (whole / "half").write_text("con")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        break_off()
    assert not list(tmp_path.iterdir())


def test_what_is_there_already_stays(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(FileExistsError, match=r"exists already\. Delete it"), staged_folder(tmp_path / "folder"):
        pass
    assert not list((tmp_path / "folder").iterdir())


def test_a_read_only_folder_for_a_folder_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> NoReturn:
        raise PermissionError(13, "Permission denied")

    # Permissions do not stop the administrator, who may run these tests.
    monkeypatch.setattr(tempfile, "mkdtemp", refuse)
    with pytest.raises(OSError, match=r"Cannot write into '.*Permission denied.*mend its permissions"):
        staged_folder(tmp_path / "folder").__enter__()  # noqa: PLC2801 - never entered


def test_a_file_in_the_way_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="Cannot write into"):
        staged_folder(tmp_path / "file" / "folder").__enter__()  # noqa: PLC2801 - never entered


def test_a_broken_folder_leaves_no_folders_above_it(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), staged_folder(tmp_path / "new" / "folder"):
        raise KeyboardInterrupt
    assert not list(tmp_path.iterdir())


def test_a_file_replaces_its_predecessor_when_it_is_complete(tmp_path: Path) -> None:
    path = tmp_path / "new" / "result.json"
    for content in ("old", "new"):
        with staged_file(path) as staged:
            staged.write_text(content)
            assert path.exists() is (content == "new")
        assert path.read_text() == content
    assert names(path.parent) == ["result.json"]


def test_a_broken_file_leaves_its_predecessor(tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    path.write_text("old")

    def write_half() -> None:
        with staged_file(path) as staged:
            staged.write_text("ne")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_half()
    assert path.read_text() == "old"
    assert names(tmp_path) == ["result.json"]
