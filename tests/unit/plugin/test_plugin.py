# SPDX-License-Identifier: Apache-2.0

"""Whatever is imported first, anomalib has the plugins' classes, and switching that off works.

Each order runs in an interpreter of its own against stand-ins for torch and anomalib (`mimic_host.py`).
"""

from __future__ import annotations

import multiprocessing
import subprocess
import sys
from importlib.metadata import entry_points
from textwrap import dedent
from typing import TYPE_CHECKING

import pytest
from mimic_host import run_python, write_distribution, write_host, write_modules

import anomalib_crad

if TYPE_CHECKING:
    from pathlib import Path

EVERYTHING_PUBLISHED = """
import anomalib.data, anomalib.models, acme, sys
from importlib.machinery import ModuleSpec, SourceFileLoader

assert anomalib.models.AcmeNet is acme.AcmeNet
assert anomalib.data.AcmeData is acme.AcmeData
assert anomalib.models.list_models() == ["AcmeNet", "Padim"]
assert anomalib.models.ALLOWED_MODULES == {"anomalib.models", "acme", "acme.model"}
assert anomalib.models.__all__ == ["AnomalibModule", "Padim", "AcmeNet"]
assert anomalib.data.__all__ == ["AnomalibDataModule", "MVTecAD", "AcmeData"]
for module in (anomalib.data, anomalib.models, acme, acme.model):
    assert type(module.__spec__) is ModuleSpec, module.__spec__
    assert type(module.__spec__.loader) is SourceFileLoader
    assert module.__loader__ is module.__spec__.loader
    assert not getattr(module.__spec__, "_initializing", False)
assert len([finder for finder in sys.meta_path if type(finder).__name__ == "ImportHook"]) == 1
"""
IN_A_THREAD = """
import threading
thread = threading.Thread(target=__import__, args=("{first}",))
thread.start()
import {second}
thread.join()
"""


@pytest.fixture
def host(tmp_path: Path) -> Path:
    write_host(tmp_path)
    return tmp_path


def assert_silent_success(result: subprocess.CompletedProcess[str]) -> None:
    assert result.returncode == 0, result.stderr
    assert not result.stderr


@pytest.mark.parametrize(
    "first",
    [
        "import torch",
        "import anomalib",
        "import anomalib.models",
        "import anomalib.data",
        "import anomalib.data.dataclasses",
        "import anomalib.models.components",
        "import anomalib.models.image",
        "import anomalib.engine",
        "import anomalib.cli",
        "import lightning",
        "import anomalib_crad",
        "import anomalib_crad, torch, anomalib_crad",
        "import torch, anomalib_crad",
        "from anomalib.models import AcmeNet",
        "from anomalib.data import AcmeData",
        "from anomalib.models import *\nassert AcmeNet",
        "import acme",
        "import acme.model",
        "import acme.data",
        "import torch, acme.data",
        IN_A_THREAD.format(first="torch", second="anomalib.models"),
        IN_A_THREAD.format(first="anomalib.models", second="anomalib.data"),
        IN_A_THREAD.format(first="anomalib.cli", second="acme"),
    ],
)
def test_every_import_order_ends_with_everything_published(host: Path, first: str) -> None:
    assert_silent_success(run_python(host, dedent(first) + EVERYTHING_PUBLISHED))


@pytest.mark.parametrize(
    "order",
    [
        "import anomalib_crad",
        "import anomalib_crad, torch",
        "import torch, anomalib_crad",
        "import anomalib.data, anomalib_crad",
        "import anomalib.models, anomalib_crad",
        "import acme, anomalib_crad",
    ],
)
@pytest.mark.parametrize("variable", ["TORCH_DEVICE_BACKEND_AUTOLOAD", "ANOMALIB_CRAD_AUTOLOAD"])
def test_importing_the_package_registers_where_autoloading_is_off(host: Path, variable: str, order: str) -> None:
    assert_silent_success(run_python(host, order + EVERYTHING_PUBLISHED, **{variable: "0"}))


@pytest.mark.parametrize("variable", ["TORCH_DEVICE_BACKEND_AUTOLOAD", "ANOMALIB_CRAD_AUTOLOAD"])
def test_switched_off_means_no_trace(host: Path, variable: str) -> None:
    code = """
    import sys
    finders = list(sys.meta_path)
    import anomalib.models, anomalib.data
    assert sys.meta_path == finders
    assert not [name for name in sys.modules if name.startswith("anomalib_crad")]
    assert anomalib.models.list_models() == ["Padim"]
    assert not hasattr(anomalib.data, "AcmeData")
    """
    assert_silent_success(run_python(host, code, **{variable: "0"}))


def test_a_process_without_anomalib_loads_no_more_than_the_hook(host: Path) -> None:
    code = """
    import __future__, importlib.metadata, sys  # torch loads these itself
    before = set(sys.modules)
    import torch
    ours = {"anomalib_crad", "anomalib_crad.plugin", "anomalib_crad.plugin.import_hook"}
    assert set(sys.modules) - before == {"torch", *ours}, set(sys.modules) - before
    """
    assert_silent_success(run_python(host, code))


def test_reload_and_repeated_import_publish_again(host: Path) -> None:
    code = """
    import importlib, sys
    import anomalib.models, anomalib.data
    importlib.reload(anomalib.models)
    assert "acme.model" in anomalib.models.ALLOWED_MODULES and "AcmeNet" in anomalib.models.__all__
    del sys.modules["anomalib.data"], anomalib.data
    """
    assert_silent_success(run_python(host, dedent(code) + EVERYTHING_PUBLISHED))


@pytest.mark.parametrize("first", ["torch", "anomalib.data", "anomalib.models", "anomalib_crad"])
def test_an_import_of_anomalib_that_fails_keeps_its_error_and_may_be_repeated(host: Path, first: str) -> None:
    write_modules(
        host,
        {
            "anomalib/models/image/__init__.py": "import switch\nif switch.broken: raise ImportError('no GPU')\n"
            "from anomalib.models.components import AnomalibModule\nclass Padim(AnomalibModule): ...",
            "switch.py": "broken = True",
            "acme/__init__.py": "",
            "acme/data.py": "class AcmeData: ...",
        },
    )
    code = f"""
    import switch
    try:
        import {first}
        import anomalib.models
    except ImportError as error:
        assert str(error) == "no GPU", error
    else:
        raise AssertionError
    import anomalib.data
    assert anomalib.data.AcmeData
    switch.broken = False
    import anomalib.models
    assert anomalib.models.AcmeNet
    """
    assert_silent_success(run_python(host, code))


@pytest.mark.parametrize("method", ["spawn", "forkserver", "fork"])
def test_worker_processes_have_the_classes(host: Path, method: str) -> None:
    if method not in multiprocessing.get_all_start_methods():
        pytest.skip(f"this system has no {method}")
    write_modules(
        host,
        {"work.py": "import anomalib.models\ndef look():\n    return anomalib.models.AcmeNet"},
    )
    code = f"""
    import multiprocessing
    import anomalib.models
    import work
    with multiprocessing.get_context("{method}").Pool(1) as pool:
        assert pool.apply(work.look) is anomalib.models.AcmeNet
    """
    assert_silent_success(run_python(host, code))


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("import not_there", "ModuleNotFoundError: No module named 'not_there'"),
        ("from anomalib.models import NotThere", "ImportError: cannot import name 'NotThere'"),
        ("1 / 0", "ZeroDivisionError"),
        ("raise SystemExit(3)", "SystemExit: 3"),
        ("this is no Python", "SyntaxError"),
        ("", "AttributeError: module 'broken' has no attribute 'Broken'"),
        ("Broken = 1", "TypeError: 'broken:Broken' is not a class"),
    ],
)
def test_a_broken_plugin_is_a_warning_and_harms_no_other(host: Path, body: str, reason: str) -> None:
    write_modules(host, {"broken.py": body})
    for group in ("anomalib.models", "anomalib.data"):
        write_distribution(host, f"a_{group.replace('.', '_')}", {group: {"Broken": "broken:Broken"}})
    code = "import torch\nimport anomalib.cli"

    result = run_python(host, code + EVERYTHING_PUBLISHED)

    assert result.returncode == 0, result.stderr
    for group in ("anomalib.models", "anomalib.data"):
        assert f"RuntimeWarning: {group}.Broken is missing, because the plugin 'broken:Broken'" in result.stderr
    assert reason in result.stderr


def test_warnings_as_errors_do_not_turn_a_broken_plugin_into_a_failure(host: Path) -> None:
    write_distribution(host, "broken", {"anomalib.models": {"Broken": "not_there:Broken"}})

    result = run_python(host, "import anomalib.cli" + EVERYTHING_PUBLISHED, PYTHONWARNINGS="error")

    assert result.returncode == 0, result.stderr
    assert "anomalib.models.Broken is missing" in result.stderr
    assert "Traceback" not in result.stderr


def test_a_plugin_that_is_uninstalled_while_python_runs_stops_nothing(host: Path) -> None:
    code = """
    import torch, anomalib_crad
    for package in (anomalib_crad, anomalib_crad.plugin):
        package.__path__.clear()
    import anomalib.models
    assert anomalib.models.list_models() == ["Padim"]
    """
    result = run_python(host, code)

    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("module", ["import_state", "publishing"])
def test_an_error_of_our_own_stops_nothing(host: Path, module: str) -> None:
    code = f"""
    import sys
    sys.modules["anomalib_crad.plugin.{module}"] = None  # the import of it fails
    import anomalib.data, torch, anomalib.models
    assert "Padim" in anomalib.models.list_models()
    """
    result = run_python(host, code)

    assert result.returncode == 0, result.stderr


def test_registering_twice_does_nothing_new(host: Path) -> None:
    code = """
    import torch, anomalib.models
    import importlib.metadata
    from anomalib_crad import plugin
    importlib.metadata.entry_points = None  # neither reads the entry points again
    plugin.install()
    plugin.register()
    """
    assert_silent_success(run_python(host, dedent(code) + EVERYTHING_PUBLISHED))


def test_importing_the_package_imports_neither_torch_nor_anomalib() -> None:
    code = "import anomalib_crad, sys; print({'torch', 'anomalib', 'lightning'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "set()\n"


def test_public_names_are_listed_and_an_unknown_one_is_an_attribute_error() -> None:
    assert set(anomalib_crad.__all__) <= set(dir(anomalib_crad))
    with pytest.raises(AttributeError, match="module 'anomalib_crad' has no attribute 'Card'"):
        _ = anomalib_crad.Card


def test_every_entry_point_is_a_public_name() -> None:
    published = [*entry_points(group="anomalib.models"), *entry_points(group="anomalib.data")]
    ours = [entry for entry in published if entry.module.partition(".")[0] == "anomalib_crad"]

    assert {entry.name for entry in ours} <= set(anomalib_crad.__all__)
    for entry in ours:
        assert getattr(anomalib_crad, entry.name) is entry.load()
    backends = {entry.name: entry.value for entry in entry_points(group="torch.backends")}
    assert backends["anomalib_crad"] == "anomalib_crad.plugin:install"
