# SPDX-License-Identifier: Apache-2.0

"""A package's model, one image at a time, and the images that it takes."""

from __future__ import annotations

import io
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import pytest
from made_up_packages import make_package, pixels, save_image
from PIL import Image

from anomalib_crad.deploy import EdgeModel, Verification, read_frame, stream, verify_package
from anomalib_crad.prediction import Prediction

if TYPE_CHECKING:
    from pathlib import Path

    from anomalib_crad.deploy import EdgePackage


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> EdgePackage:
    return make_package(tmp_path_factory.mktemp("packages") / "package")


def test_files_and_pixels_of_any_size(package: EdgePackage, tmp_path: Path) -> None:
    model = EdgeModel(package)
    path = save_image(tmp_path / "grey.png", 51, (30, 20))
    prediction = model.predict(path)
    assert prediction.image_path == str(path)
    assert prediction.score == pytest.approx(0.2)
    assert not prediction.label
    np.testing.assert_allclose(prediction.anomaly_map, np.full((4, 4), 0.2), atol=1e-6)
    half_bright = pixels(0)
    half_bright[:, 6:] = (255, 255, 204)  # the mean of the channels is 238 = 14/15
    prediction = model.predict(half_bright)
    assert prediction.label
    np.testing.assert_allclose(prediction.anomaly_map[:, [0, 3]], [[0, 14 / 15]] * 4, atol=1e-6)


def test_a_categorys_own_threshold_decides(package: EdgePackage) -> None:
    # 0.4 is 0.25 scales below 10, that is 9.5, and 1.75 scales above 6.
    frame = pixels(102)
    assert not EdgeModel(package).predict(frame).label
    own = EdgeModel(package, category="dark").predict(frame)
    assert own.label
    assert own.score == pytest.approx(0.5 * (1 + 1.75 / 2.75), abs=1e-5)
    assert own.anomaly_map.max() == pytest.approx(own.score)
    with pytest.raises(ValueError, match="known: dark"):
        EdgeModel(package, category="light")


def test_an_export_for_one_size_refuses_others(tmp_path: Path) -> None:
    model = EdgeModel(make_package(tmp_path / "package", (8, 12)))
    assert model.predict(pixels(255)).score == pytest.approx(1)
    with pytest.raises(ValueError, match=r"The image is 9 x 12 \(height x width\), but .* for images of 8 x 12 only"):
        model.predict(pixels(255, height=9))


def test_a_sample_that_agrees_and_one_that_does_not(tmp_path: Path) -> None:
    folder = make_package(tmp_path / "package").folder
    verification = verify_package(folder)
    assert verification.agrees
    assert str(verification).endswith("it agrees.")
    other = Verification(verification.expected, EdgeModel(make_package(tmp_path / "b")).predict(pixels(199)))
    assert not other.agrees
    assert "it does NOT agree" in str(other)
    unknown = Verification(verification.expected, replace(verification.found, score=float("nan")))
    assert not unknown.agrees


@pytest.mark.parametrize(("score", "agrees"), [(0.5004, True), (0.502, False)])
def test_only_a_sample_at_the_threshold_may_change_sides(package: EdgePackage, score: float, agrees: bool) -> None:
    expected = replace(package.sample, score=score, label=True)
    found = Prediction("", score - 0.0009, label=False, anomaly_map=np.zeros((1, 1)))
    assert Verification(expected, found).agrees == agrees


def test_without_openvino_the_extra_is_named(package: EdgePackage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(ImportError, match=r"pip install 'anomalib-crad\[openvino\]'"):
        EdgeModel(package)


def test_files_become_rgb(tmp_path: Path) -> None:
    colours = np.random.default_rng(0).integers(0, 256, (5, 7, 3), np.uint8)
    Image.fromarray(colours).save(tmp_path / "colour.png")
    np.testing.assert_array_equal(read_frame(tmp_path / "colour.png"), colours)
    Image.fromarray(colours[..., 0]).save(tmp_path / "grey.png")
    np.testing.assert_array_equal(read_frame(str(tmp_path / "grey.png")), colours[..., [0, 0, 0]])


def test_pixels_of_colour_and_grey_cameras() -> None:
    colours = np.random.default_rng(0).integers(0, 256, (5, 7, 3), np.uint8)
    np.testing.assert_array_equal(read_frame(colours), colours)
    swapped = read_frame(colours[..., ::-1])  # as users of OpenCV do
    np.testing.assert_array_equal(swapped, colours[..., ::-1])
    assert swapped.flags.c_contiguous
    np.testing.assert_array_equal(read_frame(colours[..., 1]), colours[..., [1, 1, 1]])


@pytest.mark.parametrize(
    "pixels",
    [
        np.zeros((4, 4, 3), np.float32),
        np.zeros((4, 4, 4), np.uint8),
        np.zeros((2, 4, 4, 3), np.uint8),
        np.zeros((0, 4, 3), np.uint8),
    ],
)
def test_other_pixels_are_refused(pixels: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"pixels must be uint8 of shape height x width x 3 or height x width, got"):
        read_frame(pixels)


def test_files_that_cannot_be_decoded_are_named(tmp_path: Path) -> None:
    broken = tmp_path / "broken.bmp"
    Image.fromarray(np.zeros((64, 64, 3), np.uint8)).save(broken)
    broken.write_bytes(broken.read_bytes()[:2000])
    with pytest.raises(OSError, match=r"Cannot read the image '.*broken\.bmp'"):
        read_frame(broken)
    with pytest.raises(OSError, match=r"Cannot read the image '.*missing\.png'"):
        read_frame(tmp_path / "missing.png")


def test_of_sixteen_bit_colours_the_upper_eight_count(tmp_path: Path) -> None:
    colours = np.random.default_rng(0).integers(0, 1 << 16, (5, 7, 3), np.uint16)
    cv2.imwrite(str(tmp_path / "deep.png"), colours[..., ::-1])
    np.testing.assert_array_equal(read_frame(tmp_path / "deep.png"), colours >> 8)


def test_files_that_would_be_clipped_are_refused(tmp_path: Path) -> None:
    Image.fromarray(np.zeros((4, 4), np.uint16)).save(tmp_path / "deep.png")
    with pytest.raises(ValueError, match="more than 8 bits a channel"):
        read_frame(tmp_path / "deep.png")


def test_threads_share_a_model(package: EdgePackage) -> None:
    model = EdgeModel(package)
    with ThreadPoolExecutor(4) as pool:
        scores = list(pool.map(lambda i: model.predict(pixels(i % 256)).score, range(400)))
    np.testing.assert_allclose(scores, [i % 256 / 255 for i in range(400)], atol=1e-6)


@pytest.mark.parametrize("frame", [Image.new("RGB", (4, 4)), b"file", io.BytesIO()], ids=["Pillow", "bytes", "file"])
def test_what_is_neither_a_path_nor_pixels_is_refused(package: EdgePackage, frame: Any) -> None:  # noqa: ANN401
    model = EdgeModel(package, throughput=True)
    message = rf"must be a path or a NumPy array of 8-bit pixels, got {type(frame).__name__}\. Convert"
    with pytest.raises(TypeError, match=message):
        model.predict(frame)
    with pytest.raises(TypeError, match=message):
        list(stream(model, [pixels(1), frame]))
