# SPDX-License-Identifier: Apache-2.0

"""The import hook reports the modules it observes and is not noticed by anything else."""

from __future__ import annotations

import copy
import importlib
import importlib.util
import inspect
import sys
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from typing import TYPE_CHECKING

import pytest
from mimic_host import write_modules

from anomalib_crad.plugin import import_state
from anomalib_crad.plugin.import_hook import ImportHook

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path
    from types import ModuleType

NAMES = ("observed", "observed_too", "observed_package", "observed_package.part", "unobserved")


@pytest.fixture(autouse=True)
def import_system(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "meta_path", list(sys.meta_path))
    yield
    for name in NAMES:
        sys.modules.pop(name, None)


def installed_hook(*names: str) -> tuple[ImportHook, list[ModuleType]]:
    reported: list[ModuleType] = []
    hook = ImportHook(names, reported.append)
    hook.install()
    return hook, reported


def test_reports_an_observed_module_after_its_body_and_no_other(tmp_path: Path) -> None:
    write_modules(tmp_path, {"observed.py": "value = 1", "unobserved.py": "value = 1"})
    values: list[int] = []
    ImportHook(["observed"], lambda module: values.append(module.value)).install()

    importlib.import_module("unobserved")
    importlib.import_module("observed")
    importlib.import_module("observed")

    assert values == [1]


def test_reports_a_submodule(tmp_path: Path) -> None:
    write_modules(tmp_path, {"observed_package/__init__.py": "", "observed_package/part.py": ""})
    _, reported = installed_hook("observed_package.part")

    module = importlib.import_module("observed_package.part")

    assert reported == [module]


def test_reports_a_module_that_has_been_imported_before_once(tmp_path: Path) -> None:
    write_modules(tmp_path, {"observed.py": ""})
    module = importlib.import_module("observed")

    hook, reported = installed_hook("observed")
    hook.install()
    importlib.import_module("json")

    assert reported == [module]
    assert sys.meta_path.count(hook) == 1


def test_reports_a_reload_and_a_repeated_import(tmp_path: Path) -> None:
    write_modules(tmp_path, {"observed.py": ""})
    _, reported = installed_hook("observed")

    first = importlib.import_module("observed")
    importlib.reload(first)
    del sys.modules["observed"]
    second = importlib.import_module("observed")

    assert reported == [first, first, second]


def test_a_module_looks_as_if_there_were_no_hook_even_to_itself(tmp_path: Path) -> None:
    write_modules(tmp_path, {"observed.py": "types = type(__loader__), type(__spec__), type(__spec__.loader)"})
    installed_hook("observed")

    module = importlib.import_module("observed")

    assert module.types == (SourceFileLoader, ModuleSpec, SourceFileLoader)
    assert module.__loader__ is module.__spec__.loader  # type: ignore[union-attr]
    assert type(module.__loader__) is SourceFileLoader
    assert inspect.getsource(module).startswith("types")


def test_a_spec_that_is_only_looked_up_can_be_used(tmp_path: Path) -> None:
    write_modules(tmp_path, {"observed.py": "value = 1"})
    _, reported = installed_hook("observed")

    spec = importlib.util.find_spec("observed")
    assert spec is not None
    assert spec.loader is not None
    assert spec.origin == str(tmp_path / "observed.py")
    assert spec.loader.get_source("observed") == "value = 1"  # type: ignore[attr-defined]
    assert copy.copy(spec.loader).get_filename("observed") == spec.origin  # type: ignore[attr-defined]
    assert not reported

    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert reported == [module]


def test_a_module_that_does_not_exist_is_not_found() -> None:
    installed_hook("observed")

    assert importlib.util.find_spec("observed") is None
    with pytest.raises(ModuleNotFoundError, match="No module named 'observed'"):
        importlib.import_module("observed")


def test_an_error_in_the_body_is_the_users_and_is_not_reported(tmp_path: Path) -> None:
    write_modules(tmp_path, {"observed.py": "1 / 0"})
    _, reported = installed_hook("observed")

    with pytest.raises(ZeroDivisionError):
        importlib.import_module("observed")
    assert not reported

    (tmp_path / "observed.py").write_text("value = 22")
    importlib.invalidate_caches()
    assert reported == [importlib.import_module("observed")]


def test_a_body_that_installs_the_hook_is_reported_at_its_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_modules(tmp_path, {"observed.py": "import sys; sys.hook.install(); value = 1"})
    values: list[int] = []
    hook = ImportHook(["observed"], lambda module: values.append(module.value))
    monkeypatch.setattr(sys, "hook", hook, raising=False)

    module = importlib.import_module("observed")

    assert values == [1]
    assert type(module.__spec__) is ModuleSpec


def test_a_body_that_installs_the_hook_and_fails_is_not_reported(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    write_modules(tmp_path, {"observed.py": "import sys; sys.hook.install(); 1 / 0"})
    reported: list[ModuleType] = []
    monkeypatch.setattr(sys, "hook", ImportHook(["observed"], reported.append), raising=False)

    with pytest.raises(ZeroDivisionError):
        importlib.import_module("observed")

    assert not reported


def test_without_pythons_private_mark_the_report_comes_with_the_next_import(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    write_modules(
        tmp_path,
        {
            "observed.py": "import sys; sys.hook.install(); import observed_too",
            "observed_too.py": "",
            "unobserved.py": "",
        },
    )
    reported: list[ModuleType] = []
    monkeypatch.setattr(sys, "hook", ImportHook(["observed"], reported.append), raising=False)
    monkeypatch.setattr(import_state, "_INITIALIZING", "_no_longer_there")

    module = importlib.import_module("observed")
    assert not reported

    importlib.import_module("unobserved")
    assert reported == [module]


class _FinderInFront(MetaPathFinder):
    """Finds everything below a folder itself, as tools that instrument modules do."""

    def __init__(self, folder: Path) -> None:
        self._folder = str(folder)

    def find_spec(
        self,
        fullname: str,
        path: Sequence[str] | None = None,
        target: ModuleType | None = None,
    ) -> ModuleSpec | None:
        return PathFinder.find_spec(fullname, [self._folder], target)


def test_a_module_that_another_finder_claims_is_reported_all_the_same(tmp_path: Path) -> None:
    write_modules(tmp_path, {"observed.py": "import unobserved", "unobserved.py": ""})
    _, reported = installed_hook("observed")
    sys.meta_path.insert(0, _FinderInFront(tmp_path))

    module = importlib.import_module("observed")
    importlib.util.find_spec("a_name_that_comes_by_all_finders")

    assert reported == [module]


def test_two_hooks_on_one_module_both_report(tmp_path: Path) -> None:
    write_modules(tmp_path, {"observed.py": ""})
    _, first = installed_hook("observed")
    _, second = installed_hook("observed")

    module = importlib.import_module("observed")

    assert first == second == [module]
    assert type(module.__loader__) is SourceFileLoader


def test_a_hook_that_has_been_removed_finds_nothing(tmp_path: Path) -> None:
    write_modules(tmp_path, {"observed.py": ""})
    hook, reported = installed_hook("observed")
    sys.meta_path.remove(hook)

    assert hook.find_spec("observed") is None
    importlib.import_module("observed")
    assert not reported
