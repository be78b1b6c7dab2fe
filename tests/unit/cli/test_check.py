# SPDX-License-Identifier: Apache-2.0

"""The check as a command: options and configurations of a training, exit codes, plain errors."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from made_up_images import make_category
from made_up_sets import make_folder, write_mask
from omegaconf import OmegaConf

from anomalib_crad.cli.check import main

if TYPE_CHECKING:
    from pathlib import Path


def options(root: Path) -> list[str]:
    arguments = {"base": "Folder", **{f"base_args.{name}": value for name, value in make_folder(root).items()}}
    return ["--data", "MultiCategory", *(f"--data.{name}={value}" for name, value in arguments.items())]


def test_options_of_a_training(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(options(tmp_path)) == 0
    shown = capsys.readouterr().out
    assert "cap" in shown
    assert "WARNING Category 'pin'" in shown


def test_errors_are_an_exit_code(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = options(tmp_path)
    write_mask(tmp_path / "cap" / "masks" / "scratch" / "capg.png", (16, 24))
    assert main(arguments) == 1
    assert "ERROR Category 'cap'" in capsys.readouterr().out


def test_a_single_category_of_anomalibs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = make_category(tmp_path, "cap").parent
    assert main(["--data", "MVTecAD", "--data.root", str(root), "--data.category", "cap"]) == 0
    assert "No problems found" in capsys.readouterr().out


def test_configuration_of_a_training_and_options_that_win(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    init_args = {**make_folder(tmp_path), "root": str(tmp_path)}
    data = {"class_path": "MultiCategory", "init_args": {"base": "Folder", "base_args": init_args}}
    path = tmp_path / "config.yaml"
    path.write_text(OmegaConf.to_yaml({"model": {"class_path": "Crad"}, "data": data, "trainer": {"max_epochs": 3}}))
    assert main(["--config", str(path)]) == 0
    assert "nut" in capsys.readouterr().out
    assert main([f"--config={path}", "--data.categories", "[cap]"]) == 0
    assert "nut" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "Give a datamodule with --data, or a configuration with --config"),
        (["--config", "none.yaml"], "there is no file 'none.yaml'"),
        (["--data", "MultiCategory", "--data.base", "Vsia"], "Unknown `base`: 'Vsia'"),
        (["--data", "BTech", "--data.root", "none"], "BTech cannot read category '01'"),
    ],
)
def test_nothing_to_look_at_is_a_plain_error(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    assert message in capsys.readouterr().err


def test_configuration_without_data_is_a_plain_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "config.yaml"
    path.write_text("model: Crad\n")
    with pytest.raises(SystemExit):
        main(["--config", str(path)])
    assert "has no section `data`" in capsys.readouterr().err
