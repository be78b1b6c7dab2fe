# SPDX-License-Identifier: Apache-2.0

"""Modules whose import is under way: recognise them, and be called when their import ends.

Python has no event for "this module is complete". The import system, though, ends every import by setting the private
`spec._initializing = False`, which a spec of a derived class can notice. Where that mark is gone, the callers have to
look again later. Loaded only when it is needed, to keep `import torch` fast; `import_hook.py` is the usual way.
"""

from __future__ import annotations

import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Generator
    from importlib.machinery import ModuleSpec
    from types import FrameType, ModuleType
    from typing import Any

_INITIALIZING = "_initializing"

# Ids of modules whose body has run and whose observers are being called: still marked as initializing, but complete.
_executed: set[int] = set()


def is_half_imported(module: ModuleType) -> bool:
    """Tell whether the body of a module is still running.

    Args:
        module: A module, usually out of `sys.modules`.

    Returns:
        True from the moment at which the module enters `sys.modules` until its body has run.
    """
    if id(module) in _executed:
        return False
    initializing = getattr(getattr(module, "__spec__", None), _INITIALIZING, None)
    return _is_on_a_stack(module) if initializing is None else bool(initializing)


def call_when_imported(module: ModuleType, callback: Callable[[], None]) -> bool:
    """Call a function once, as soon as the import of a half imported module has ended, well or not.

    Args:
        module: A module whose import is under way in any thread.
        callback: Called without arguments by the thread that imports the module. It must not raise.

    Returns:
        False if this Python gives no way to be called; the callback is dropped then.
    """
    spec: Any = module.__spec__
    if not hasattr(spec, _INITIALIZING):
        return False
    original = type(spec)

    def mark(self: ModuleSpec, value: object) -> None:
        if value:
            vars(self)[_INITIALIZING] = value
            return
        self.__class__ = original
        # First the callback: other threads stop waiting for the module once the mark is off.
        with marked_as_executed(module):
            callback()
        setattr(self, _INITIALIZING, value)  # not past the spec's class: the callback may have set a new watch

    watched = property(lambda self: vars(self)[_INITIALIZING], mark)
    try:
        spec.__class__ = type("WatchedSpec", (original,), {_INITIALIZING: watched})
    except TypeError:  # a spec that is not made in Python
        return False
    if not getattr(spec, _INITIALIZING):
        # Another thread ended the import between the caller's look and ours; a no-op if the watch saw it.
        setattr(spec, _INITIALIZING, False)
    return True


@contextmanager
def marked_as_executed(module: ModuleType) -> Generator[None, None, None]:
    """Let `is_half_imported` be false for a module whose body has just run, while its observers are called.

    Args:
        module: The module whose import is about to end.
    """
    _executed.add(id(module))
    try:
        yield
    finally:
        _executed.discard(id(module))


def _is_on_a_stack(module: ModuleType) -> bool:
    """Look for the frame of a module's body in all threads: slower, but nothing private."""
    namespace = getattr(module, "__dict__", None)
    for top in sys._current_frames().values():  # noqa: SLF001 - documented, in spite of its name
        frame: FrameType | None = top
        while frame is not None:
            if frame.f_globals is namespace and frame.f_code.co_name == "<module>":
                return True
            frame = frame.f_back
    return False
