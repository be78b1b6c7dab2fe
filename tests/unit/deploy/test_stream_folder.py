# SPDX-License-Identifier: Apache-2.0

"""A folder of images becomes a table in its order, and pictures."""

from __future__ import annotations

import errno
import io
import logging
import os
import sys
from typing import TYPE_CHECKING, NoReturn

import numpy as np
import pandas as pd
import pytest
from made_up_packages import make_package, save_image
from PIL import Image
from rich.console import Console

from anomalib_crad.deploy import EdgeModel, stream_folder

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> EdgeModel:
    return EdgeModel(make_package(tmp_path_factory.mktemp("packages") / "package"), throughput=True)


@pytest.fixture
def images(tmp_path: Path) -> Path:
    folder = tmp_path / "images"
    for i, name in enumerate(["b/1.png", "a/1.png", "a/2.jpg", "c.png"]):
        save_image(folder / name, 60 * i)
    (folder / "a" / "0.png").write_text("no image")
    return folder


def test_rows_are_the_files_in_order(
    model: EdgeModel, images: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        summary = stream_folder(model, images, tmp_path / "out")
    table = pd.read_csv(tmp_path / "out" / "results.csv")
    assert list(table.columns) == ["image", "score", "label", "overlay", "error"]
    assert table["image"].tolist() == ["a/0.png", "a/1.png", "a/2.jpg", "b/1.png", "c.png"]
    np.testing.assert_allclose(table["score"], [np.nan, 60 / 255, 120 / 255, 0, 180 / 255], atol=0.01)
    assert table["label"].tolist()[1:] == ["normal", "normal", "normal", "anomalous"]
    assert "Cannot read the image" in table["error"][0]
    assert table["error"][1:].isna().all()
    assert (summary.images, summary.anomalous, summary.skipped) == (4, 1, 1)
    assert str(summary).startswith("4 images, 1 anomalous, 1 skipped, in ")
    (warning,) = caplog.messages
    assert warning.startswith(f"Skipped '{images / 'a' / '0.png'}': Cannot read the image")


def test_an_image_of_another_size_is_skipped_and_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    model = EdgeModel(make_package(tmp_path / "package", (8, 12)), throughput=True)
    for name, size in {"a.png": (12, 8), "b.png": (12, 9), "c.png": (12, 8)}.items():
        save_image(tmp_path / "images" / name, 60, size)
    with caplog.at_level(logging.WARNING):
        summary = stream_folder(model, tmp_path / "images", tmp_path / "out")
    assert (summary.images, summary.skipped) == (2, 1)
    table = pd.read_csv(tmp_path / "out" / "results.csv")
    assert table["error"].notna().tolist() == [False, True, False]
    (warning,) = caplog.messages
    assert "b.png': The image is 9 x 12 (height x width)" in warning


@pytest.mark.parametrize(("overlays", "count"), [("all", 4), ("anomalous", 1), ("none", 0)])
def test_which_images_are_drawn(model: EdgeModel, images: Path, tmp_path: Path, overlays: str, count: int) -> None:
    stream_folder(model, images, tmp_path / "out", overlays)  # type: ignore[arg-type] # one of the three
    table = pd.read_csv(tmp_path / "out" / "results.csv")
    drawn = table["overlay"].dropna().tolist()
    assert len(drawn) == count
    assert drawn == [f"overlays/{name}.jpg" for name in table["image"][table["overlay"].notna()]]
    for name in drawn:
        with Image.open(tmp_path / "out" / name) as picture:
            assert picture.size == (12, 8)


def test_colours_span_zero_to_one_in_every_picture(model: EdgeModel, tmp_path: Path) -> None:
    """Equal scores have equal colours, whatever else is in the image; red is anomalous, blue is normal."""
    for name, brightness in {"dark": 20, "bright": 235}.items():
        save_image(tmp_path / "images" / f"{name}.png", brightness, (64, 64))
    stream_folder(model, tmp_path / "images", tmp_path / "out")
    corner = {}
    for name in ("dark", "bright"):
        with Image.open(tmp_path / "out" / "overlays" / f"{name}.png.jpg") as picture:
            corner[name] = np.asarray(picture, int)[-20:, -20:].mean((0, 1))
    red, _, blue = corner["dark"]
    assert blue > red + 50
    red, _, blue = corner["bright"]
    assert red > blue + 50


def test_one_image_and_a_relative_folder(
    model: EdgeModel, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream_folder(model, images / "c.png", tmp_path / "one")
    assert pd.read_csv(tmp_path / "one" / "results.csv")["image"].tolist() == ["c.png"]
    # A link is called as the user calls it, not as what it points to.
    (tmp_path / "link.png").symlink_to(images / "c.png")
    stream_folder(model, tmp_path / "link.png", tmp_path / "one")
    assert pd.read_csv(tmp_path / "one" / "results.csv")["image"].tolist() == ["link.png"]
    (tmp_path / "link").symlink_to(images / "a")
    stream_folder(model, tmp_path / "link", tmp_path / "folder")
    assert pd.read_csv(tmp_path / "folder" / "results.csv")["image"].tolist() == ["0.png", "1.png", "2.jpg"]
    monkeypatch.chdir(tmp_path)
    stream_folder(model, "images/b", "out")
    assert pd.read_csv("out/results.csv")["image"].tolist() == ["1.png"]


def test_progress_is_shown_where_asked(model: EdgeModel, images: Path, tmp_path: Path) -> None:
    shown = io.StringIO()
    stream_folder(model, images, tmp_path / "out", console=Console(file=shown, force_terminal=True))
    assert "Streaming" in shown.getvalue()
    assert "100%" in shown.getvalue()


def test_bad_arguments_are_plain_errors(model: EdgeModel, images: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="overlays must be one of all, anomalous, none, got 'some'"):
        stream_folder(model, images, tmp_path / "out", "some")  # type: ignore[arg-type]
    with pytest.raises(FileNotFoundError, match="there is no file or folder"):
        stream_folder(model, tmp_path / "missing", tmp_path / "out")
    with pytest.raises(ValueError, match="its pictures would be images of the next run"):
        stream_folder(model, images, images / "out")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="Found 0 images"):
        stream_folder(model, tmp_path / "empty", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_whatever_is_wrong_with_one_image_costs_its_row_only(
    model: EdgeModel, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "images"
    save_image(folder / "a.png", 60)
    (folder / "gone.png").symlink_to(tmp_path / "nowhere.png")
    (folder / "loop.png").symlink_to(folder / "loop.png")
    long_name = "m" * 248 + ".png"
    save_image(folder / long_name, 200)
    save_image(folder / "z.png", 60)
    with caplog.at_level(logging.WARNING):
        summary = stream_folder(model, folder, tmp_path / "out")
    table = pd.read_csv(tmp_path / "out" / "results.csv").set_index("image")
    assert list(table.index) == ["a.png", "gone.png", "loop.png", long_name, "z.png"]
    assert (summary.images, summary.skipped) == (3, 2)
    assert table["error"].notna().tolist() == [False, True, True, True, False]
    assert table["label"][long_name] == "anomalous"
    assert table["error"][long_name] == "No picture: File name too long."
    assert len(caplog.messages) == 3


@pytest.mark.skipif(sys.platform != "linux", reason="other systems allow only Unicode in names of files")
def test_a_name_that_is_not_unicode_is_escaped(model: EdgeModel, tmp_path: Path) -> None:
    save_image(tmp_path / "images" / "a.png", 60)
    save_image(tmp_path / "images" / "a.png", 60).rename(tmp_path / "images" / os.fsdecode(b"b\xff.png"))
    summary = stream_folder(model, tmp_path / "images", tmp_path / "out")
    assert summary.images == 1
    table = pd.read_csv(tmp_path / "out" / "results.csv")
    assert table["image"].tolist() == ["b\\udcff.png"]
    assert table["overlay"].tolist() == ["overlays/b\\udcff.png.jpg"]


def test_a_disk_that_takes_no_picture_ends_the_run(
    model: EdgeModel, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> NoReturn:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", refuse)
    with pytest.raises(OSError, match="No space left"):
        stream_folder(model, images, tmp_path / "out")
