# SPDX-License-Identifier: Apache-2.0

"""The real anomalib with this package and a third-party plugin installed: Python, both command lines, workers.

Every import order runs against stand-ins in `tests/unit/plugin/test_plugin.py`; here each interpreter costs an import
of anomalib, so there are few, chosen by where torch is first imported: within `anomalib.models` or `anomalib.data`, in
another thread, before all, and by the command line.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from textwrap import dedent

import pytest

REPOSITORY = Path(__file__).parents[2]
ANOMALIB = Path(sys.executable).with_name("anomalib")
MODEL = """
import torch
from anomalib import LearningType
from anomalib.models import AnomalibModule


class AcmeNet(AnomalibModule):
    def __init__(self, width: int = 4) -> None:
        super().__init__(pre_processor=False, post_processor=False, evaluator=False, visualizer=False)
        self.model = torch.nn.Linear(1, width)

    @property
    def trainer_arguments(self) -> dict:
        return {}

    @property
    def learning_type(self) -> LearningType:
        return LearningType.ONE_CLASS
"""
DATA = """
import anomalib.data
from anomalib.data import AnomalibDataModule
from torch.utils.data import Dataset


class AcmeData(AnomalibDataModule):
    def __init__(self, train_batch_size: int = 2) -> None:
        super().__init__(train_batch_size, 1, 0)

    def _setup(self, stage: str | None = None) -> None: ...


class SeenByWorker(Dataset):
    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int) -> bool:
        return anomalib.data.AcmeData is AcmeData and hasattr(anomalib.data, "MVTec")
"""
ENTRY_POINTS = """
[anomalib.models]
AcmeNet = acme.model:AcmeNet
Padim = acme.model:Padim
Broken = acme.not_there:Broken

[anomalib.data]
AcmeData = acme.data:AcmeData
"""


@pytest.fixture(scope="module")
def plugin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a third-party plugin that adds a model and a datamodule, claims `Padim`, and is partly broken."""
    root = tmp_path_factory.mktemp("plugin")
    (root / "acme-1.0.dist-info").mkdir()
    (root / "acme-1.0.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: acme\nVersion: 1.0\n")
    (root / "acme-1.0.dist-info" / "entry_points.txt").write_text(ENTRY_POINTS)
    (root / "acme").mkdir()
    (root / "acme" / "__init__.py").write_text("")
    (root / "acme" / "model.py").write_text(MODEL)
    (root / "acme" / "data.py").write_text(DATA)
    return root


def run(plugin: Path, *command: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a command in the plugin's folder with only this package and the plugin beside what is installed."""
    clean = {key: value for key, value in os.environ.items() if "AUTOLOAD" not in key and key != "PYTHONWARNINGS"}
    path = os.pathsep.join([str(plugin), str(REPOSITORY)])
    return subprocess.run(
        command,
        env={**clean, "PYTHONPATH": path, **environment},
        cwd=plugin,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )


def run_code(plugin: Path, code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    # As a file, since worker processes that are spawned import the main module again.
    script = plugin / "script.py"
    script.write_text(dedent(code))
    return run(plugin, sys.executable, script, **environment)


def test_models_first_then_every_way_to_a_model_and_a_datamodule(plugin: Path) -> None:
    code = """
    from anomalib.models import AcmeNet, Crad, Padim, get_model, list_models
    from anomalib.data import AcmeData, Elpv, MVTec, get_datamodule
    from torch.utils.data import DataLoader
    import acme.data, acme.model, anomalib_crad

    if __name__ == "__main__":
        assert AcmeNet is acme.model.AcmeNet and AcmeData is acme.data.AcmeData
        assert (Crad, Elpv, MVTec) == (anomalib_crad.Crad, anomalib_crad.Elpv, anomalib_crad.MVTec)
        assert {"acme_net", "crad", "padim"} <= list_models()
        for name in ("acme_net", "AcmeNet", "acmenet"):
            assert get_model(name, width=3).model.out_features == 3
        for path in ("AcmeNet", "anomalib.models.AcmeNet", "acme.model.AcmeNet"):
            assert get_model({"class_path": path, "init_args": {"width": 5}}).model.out_features == 5
        for path in ("AcmeData", "acme.data.AcmeData"):
            assert get_datamodule({"class_path": path, "init_args": {"train_batch_size": 7}}).train_batch_size == 7
        assert Padim.__module__.startswith("anomalib.")
        assert get_model("padim", pre_trained=False).__class__ is Padim
        workers = DataLoader(acme.data.SeenByWorker(), num_workers=1, multiprocessing_context="spawn")
        assert [bool(seen) for seen in workers] == [True]
    """
    result = run_code(plugin, code)

    assert result.returncode == 0, result.stderr
    assert (
        "'Padim = acme.model:Padim' is not loaded, because its name is taken by anomalib.models.Padim" in result.stderr
    )
    assert "anomalib.models.Broken is missing, because the plugin 'acme.not_there:Broken'" in result.stderr


def test_data_first(plugin: Path) -> None:
    code = """
    import sys
    import anomalib.data.dataclasses
    assert "anomalib.models" not in sys.modules  # our datamodules load no model
    assert anomalib.data.AcmeData and anomalib.data.MVTec
    import anomalib_crad.data.mvtec
    assert anomalib.data.MVTec is anomalib_crad.data.mvtec.MVTec
    import anomalib.models
    assert anomalib.models.AcmeNet and anomalib.models.Crad
    """
    result = run_code(plugin, code)

    assert result.returncode == 0, result.stderr


def test_the_package_first_and_torch_in_a_thread(plugin: Path) -> None:
    code = """
    import threading
    thread = threading.Thread(target=__import__, args=("torch",))
    thread.start()
    from anomalib_crad.models.crad.lightning_model import Crad
    thread.join()
    import anomalib.engine
    import anomalib.data, anomalib.models
    assert anomalib.models.Crad is Crad
    assert anomalib.models.AcmeNet and anomalib.data.AcmeData and anomalib.data.MVTec
    """
    result = run_code(plugin, code)

    assert result.returncode == 0, result.stderr


def test_without_autoloading_nothing_happens_until_the_package_is_imported(plugin: Path) -> None:
    code = """
    import anomalib.models, anomalib.data
    assert not hasattr(anomalib.models, "AcmeNet") and not hasattr(anomalib.data, "MVTec")
    import anomalib_crad
    assert anomalib.models.AcmeNet and anomalib.models.Crad is anomalib_crad.Crad
    assert "acme_net" in anomalib.models.list_models()
    assert anomalib.data.AcmeData and anomalib.data.MVTec is anomalib_crad.MVTec
    """
    result = run_code(plugin, code, ANOMALIB_CRAD_AUTOLOAD="0")

    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize(
    ("command", "model", "data", "environment"),
    [
        ([ANOMALIB], "AcmeNet", "AcmeData", {}),
        ([ANOMALIB], "anomalib_crad.Crad", "anomalib_crad.MVTec", {"TORCH_DEVICE_BACKEND_AUTOLOAD": "0"}),
        ([sys.executable, "-m", "anomalib_crad"], "Crad", "MVTec", {"TORCH_DEVICE_BACKEND_AUTOLOAD": "0"}),
    ],
    ids=["anomalib", "anomalib-by-full-path", "python-m"],
)
def test_the_command_line_resolves_the_classes(
    plugin: Path,
    command: list[str | Path],
    model: str,
    data: str,
    environment: dict[str, str],
) -> None:
    result = run(plugin, *command, "train", "--model", model, "--data", data, "--print_config", **environment)

    assert result.returncode == 0, result.stderr
    paths = [line.split()[-1] for line in result.stdout.splitlines() if line.startswith("  class_path:")]
    assert [path.rpartition(".")[2] for path in paths] == [model.rpartition(".")[2], data.rpartition(".")[2]]
