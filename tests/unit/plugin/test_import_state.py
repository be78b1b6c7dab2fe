# SPDX-License-Identifier: Apache-2.0

"""A module whose import is under way is recognised, and its end is noticed once, by everyone who waits for it."""

from __future__ import annotations

import importlib
import sys
import threading
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import TYPE_CHECKING

import pytest
from mimic_host import write_modules

from anomalib_crad.plugin import import_state
from anomalib_crad.plugin.import_state import call_when_imported, is_half_imported

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


@pytest.fixture
def import_and_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., ModuleType]]:
    """Import a module whose body calls a function with the half imported module, and perhaps fails."""
    monkeypatch.syspath_prepend(tmp_path)

    def run(action: Callable[[ModuleType], object], *, fails: bool = False) -> ModuleType:
        write_modules(
            tmp_path,
            {"half_imported.py": f"import sys\nsys.action(sys.modules[__name__])\nassert {not fails}\nvalue = 1"},
        )
        monkeypatch.setattr(sys, "action", action, raising=False)
        return importlib.import_module("half_imported")

    yield run
    sys.modules.pop("half_imported", None)


@pytest.mark.parametrize("mark", ["_initializing", "_no_longer_there"])
def test_half_imported_is_true_in_the_body_only_with_and_without_pythons_mark(
    import_and_run: Callable[..., ModuleType],
    monkeypatch: pytest.MonkeyPatch,
    mark: str,
) -> None:
    monkeypatch.setattr(import_state, "_INITIALIZING", mark)
    seen: list[bool] = []

    def look(module: ModuleType) -> None:
        seen.append(is_half_imported(module))
        thread = threading.Thread(target=lambda: seen.append(is_half_imported(module)))
        thread.start()
        thread.join()

    module = import_and_run(look)

    assert seen == [True, True]
    assert not is_half_imported(module)


def test_a_module_made_by_hand_is_complete() -> None:
    assert not is_half_imported(ModuleType("by_hand"))


def test_everyone_who_waits_is_called_once_when_the_body_has_run(import_and_run: Callable[..., ModuleType]) -> None:
    calls: list[str] = []

    def wait_thrice(module: ModuleType) -> None:
        def note_and_wait_again() -> None:
            assert module.value == 1
            assert not is_half_imported(module)
            calls.append("first")
            assert call_when_imported(module, lambda: calls.append("of the first"))

        assert call_when_imported(module, note_and_wait_again)
        assert call_when_imported(module, lambda: calls.append("second"))

    module = import_and_run(wait_thrice)

    assert sorted(calls) == ["first", "of the first", "second"]
    assert type(module.__spec__) is ModuleSpec
    assert not is_half_imported(module)


def test_the_end_of_a_failed_import_is_an_end(import_and_run: Callable[..., ModuleType]) -> None:
    calls: list[bool] = []

    with pytest.raises(AssertionError):
        import_and_run(
            lambda module: call_when_imported(module, lambda: calls.append("half_imported" in sys.modules)),
            fails=True,
        )

    assert calls == [False]


def test_an_import_that_ended_meanwhile_is_noticed_at_once(import_and_run: Callable[..., ModuleType]) -> None:
    module = import_and_run(lambda _: None)
    calls: list[None] = []

    assert call_when_imported(module, lambda: calls.append(None))

    assert calls == [None]
    assert type(module.__spec__) is ModuleSpec


def test_an_import_that_cannot_be_watched_says_so(
    import_and_run: Callable[..., ModuleType],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    module = import_and_run(lambda _: None)
    monkeypatch.setattr(import_state, "_INITIALIZING", "_no_longer_there")

    assert not call_when_imported(module, pytest.fail)
    assert not call_when_imported(ModuleType("by_hand"), pytest.fail)
