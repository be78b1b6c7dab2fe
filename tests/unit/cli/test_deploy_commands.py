# SPDX-License-Identifier: Apache-2.0

"""Exit codes and plain errors of the commands; the integration tests run them on a trained model."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

import pandas as pd
import pytest
from made_up_packages import make_package, save_image

from anomalib_crad.deploy.package import write_metadata

if TYPE_CHECKING:
    from pathlib import Path

COMMANDS = {name: import_module(f"anomalib_crad.cli.{name}").main for name in ("package", "stream", "verify")}


def test_verify_tells_by_its_exit_code(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    package = make_package(tmp_path / "package")
    assert COMMANDS["verify"]([str(package.folder)]) == 0
    assert "it agrees" in capsys.readouterr().out

    write_metadata(package.folder, {**package.metadata, "sample": {**package.metadata["sample"], "score": 0.7}})
    assert COMMANDS["verify"]([str(package.folder)]) == 1
    assert "it does NOT agree" in capsys.readouterr().out

    package.sample.path.unlink()
    with pytest.raises(SystemExit, match="2"):
        COMMANDS["verify"]([str(package.folder)])
    assert "is incomplete: it lacks sample.png" in capsys.readouterr().err


def test_stream_writes_results_and_says_what_it_skipped(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    package = str(make_package(tmp_path / "package").folder)
    images, output = tmp_path / "images", tmp_path / "out"
    save_image(images / "a.png", 102)
    arguments = [package, "--images", str(images), "--output", str(output), "--overlays", "none"]
    assert COMMANDS["stream"](arguments) == 0
    assert "1 images, 0 anomalous, 0 skipped" in capsys.readouterr().out
    assert not (output / "overlays").exists()

    (images / "b.png").write_text("no image")
    assert COMMANDS["stream"]([*arguments, "--category", "dark"]) == 0
    shown = capsys.readouterr()
    assert "1 images, 1 anomalous, 1 skipped" in shown.out
    assert "WARNING" in shown.err
    assert "Cannot read the image" in " ".join(shown.err.split())
    assert pd.read_csv(output / "results.csv")["label"][0] == "anomalous"

    (images / "a.png").unlink()
    assert COMMANDS["stream"](arguments) == 1


@pytest.mark.parametrize(
    ("command", "arguments", "message"),
    [
        ("verify", ["missing"], "'missing' is no package"),
        ("verify", [], "package"),
        ("stream", ["missing", "--images", ".", "--output", "out"], "'missing' is no package"),
        ("stream", ["{package}", "--images", "none", "--output", "out"], "there is no file or folder 'none'"),
        ("stream", ["{package}", "--images", ".", "--output", "out", "--category", "light"], "known: dark"),
        ("stream", ["{package}", "--images", ".", "--output", "out", "--device", "TOASTER"], "TOASTER"),
        ("stream", ["{package}", "--images", "{package}", "--output", "{package}/../file/out"], "Not a directory"),
        ("package", ["--ckpt_path", "none.ckpt", "--output", "out", "--sample", "a.png"], "no checkpoint 'none.ckpt'"),
        (
            "package",
            ["--ckpt_path", "none.ckpt", "--output", "out", "--data=MVTec", "--data.root=none"],
            "no checkpoint 'none.ckpt'",
        ),
        ("package", ["--output", "out"], "ckpt_path"),
    ],
)
def test_plain_errors(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    command: str,
    arguments: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = make_package(tmp_path / "package").folder
    (tmp_path / "file").touch()
    with pytest.raises(SystemExit, match="2"):
        COMMANDS[command]([argument.format(package=folder) for argument in arguments])
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
