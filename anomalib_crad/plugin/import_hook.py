# SPDX-License-Identifier: Apache-2.0

"""Call a function right after certain modules have been executed, whoever imports them.

This package waits for modules of anomalib with it. A module that is not imported yet gets its loader wrapped, which is
public API (`reporting_loader.py`); one whose import has begun before the hook was there is watched
(`import_state.py`). This file is part of every `import torch`, so it loads these two when they are needed.
"""

from __future__ import annotations

import sys
from functools import partial
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from importlib.machinery import ModuleSpec
    from types import ModuleType


class ImportHook:
    """Meta-path finder that reports the execution of a few modules and finds none itself.

    It stays on `sys.meta_path`, because a module can be reloaded, or dropped and imported again, and answers `None` for
    every module that it does not observe.

    Args:
        names: Full names of the modules to observe.
        callback: Called with the module each time its body has run without an error. It must not raise: what it raises
            would come out of the user's import statement.
    """

    def __init__(self, names: Iterable[str], callback: Callable[[ModuleType], None]) -> None:
        self._names = frozenset(names)
        self._callback = callback
        # Names that may come into `sys.modules` without a wrapped loader.
        self._unseen = set(self._names)

    @property
    def installed(self) -> bool:
        """Whether the import system asks this hook."""
        return self in sys.meta_path

    def install(self) -> None:
        """Observe from now on and report what has been imported before. Any further call changes nothing."""
        if not self.installed:
            sys.meta_path.insert(0, self)
        self._catch_up()

    def find_spec(
        self,
        fullname: str,
        path: Sequence[str] | None = None,
        target: ModuleType | None = None,
    ) -> ModuleSpec | None:
        """Return the spec that the other finders have for an observed module, its loader wrapped.

        Args:
            fullname: Name of the module that is being imported.
            path: `__path__` of its parent package, `None` for a top-level module.
            target: The module that is being reloaded, if any.

        Returns:
            The spec, or `None` for a module that is not observed or that nobody finds.
        """
        try:
            self._catch_up()
            return self._find_reporting_spec(fullname, path, target) if fullname in self._names else None
        except Exception:  # noqa: BLE001 - then the import goes on without this hook; it may have been uninstalled
            return None

    def _find_reporting_spec(
        self,
        fullname: str,
        path: Sequence[str] | None,
        target: ModuleType | None,
    ) -> ModuleSpec | None:
        # Only those behind this one: those before it have been asked, and two such hooks cannot ask each other forever.
        for finder in sys.meta_path[sys.meta_path.index(self) + 1 :]:
            find_spec = getattr(finder, "find_spec", None)
            spec = find_spec(fullname, path, target) if find_spec is not None else None
            if spec is not None:
                return self._with_reporting_loader(spec)
        return None

    def _with_reporting_loader(self, spec: ModuleSpec) -> ModuleSpec:
        from anomalib_crad.plugin.reporting_loader import ReportingLoader

        if hasattr(spec.loader, "exec_module"):
            spec.loader = ReportingLoader(spec.loader, self._report)  # type: ignore[assignment]
            self._unseen.discard(spec.name)
        return spec

    def _catch_up(self) -> None:
        """Attend to observed modules that came into `sys.modules` before this hook or past it."""
        for name in tuple(self._unseen):
            module = sys.modules.get(name)
            if module is not None:
                self._unseen.discard(name)  # first, since attending to it imports modules and so comes by here again
                if not self._attend_to(module):
                    self._unseen.add(name)

    def _attend_to(self, module: ModuleType) -> bool:
        from anomalib_crad.plugin.import_state import call_when_imported, is_half_imported

        if is_half_imported(module):
            return call_when_imported(module, partial(self._report_if_kept, module))
        self._report(module)
        return True

    def _report_if_kept(self, module: ModuleType) -> None:
        if sys.modules.get(module.__name__) is module:  # a failed import removes its module
            self._report(module)

    def _report(self, module: ModuleType) -> None:
        self._callback(module)
