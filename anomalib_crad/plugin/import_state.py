# SPDX-License-Identifier: Apache-2.0

"""Call a function when the import of a module ends, whether the import has begun or not.

`ReportingLoader` wraps the loader of a module whose import has not begun. For an import under way, Python has no event,
but the import system ends every import by setting the private `spec._initializing = False`, which a spec of a derived
class can notice. In a Python without that attribute, callers have to look again later.

`import_hook.py` loads this file only when it needs it, to keep `import torch` fast.
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

# Ids of modules that Python still marks as initializing although their body has run: their observers are being called.
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
        False if this Python cannot report the end of an import; then the callback is never called.
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
        # The callback comes first: other threads stop waiting for the module once the mark is off.
        with marked_as_executed(module):
            callback()
        setattr(self, _INITIALIZING, value)  # through the spec's class: the callback may have set a new watch

    watched = property(lambda self: vars(self)[_INITIALIZING], mark)
    try:
        spec.__class__ = type("WatchedSpec", (original,), {_INITIALIZING: watched})
    except TypeError:  # a spec of a class written in C
        return False
    if not getattr(spec, _INITIALIZING):
        # Another thread has ended the import since the caller checked; this does nothing if the watch noticed it.
        setattr(spec, _INITIALIZING, False)
    return True


@contextmanager
def marked_as_executed(module: ModuleType) -> Generator[None, None, None]:
    """Make `is_half_imported` return False for a module whose body has just run, while its observers are called.

    Args:
        module: The module whose import is about to end.
    """
    _executed.add(id(module))
    try:
        yield
    finally:
        _executed.discard(id(module))


class ReportingLoader:
    """Loader around another one that reports the module it has executed.

    It removes itself before the module's body runs: the module has the spec and the `__loader__` that it would have
    without us, so that reading its source or its resources and reloading it work as usual.

    Args:
        loader: The loader that does the work, with `exec_module`; this one also gives access to its other attributes.
        report: Called with the module as soon as its body has run without an error. It must not raise.
    """

    def __init__(self, loader: Any, report: Callable[[ModuleType], None]) -> None:  # noqa: ANN401 - loaders share no type
        self._loader = loader
        self._report = report

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        """Create the module as the wrapped loader does.

        Args:
            spec: Spec of the module.

        Returns:
            The module, or `None` to let Python create it.
        """
        create_module = getattr(self._loader, "create_module", None)
        return create_module(spec) if create_module is not None else None

    def exec_module(self, module: ModuleType) -> None:
        """Run the body of a module, then report it.

        Args:
            module: The module; its spec and `__loader__` name the wrapped loader from here on.
        """
        self._unwrap(module)
        self._loader.exec_module(module)
        with marked_as_executed(module):
            self._report(module)

    def _unwrap(self, module: ModuleType) -> None:
        # Before the body runs, since the body may look at its own loader.
        if module.__spec__ is not None and module.__spec__.loader is self:
            module.__spec__.loader = self._loader
        if getattr(module, "__loader__", None) is self:
            module.__loader__ = self._loader

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - whatever the wrapped loader has
        """Return an attribute of the wrapped loader."""
        if name == "_loader":  # `copy` and `pickle` ask an instance without state
            raise AttributeError(name)
        return getattr(self._loader, name)


def _is_on_a_stack(module: ModuleType) -> bool:
    """Tell whether any thread runs a module's body: slower than the private mark, but public API."""
    namespace = getattr(module, "__dict__", None)
    for top in sys._current_frames().values():  # noqa: SLF001 - documented, in spite of its name
        frame: FrameType | None = top
        while frame is not None:
            if frame.f_globals is namespace and frame.f_code.co_name == "<module>":
                return True
            frame = frame.f_back
    return False
