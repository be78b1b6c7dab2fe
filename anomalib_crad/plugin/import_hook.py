# SPDX-License-Identifier: Apache-2.0

"""Call a function right after certain modules have been executed, whoever imports them.

The plugin waits for modules of anomalib with it. It wraps the loader of a module that is not imported yet, and watches
a module whose import began before the hook was installed; both are in `import_state.py`. This file is part of every
`import torch`, so it loads `import_state.py` only when it needs it.
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

    It stays on `sys.meta_path`, because a module can be reloaded, or dropped and imported again. It returns `None` for
    every module that it does not observe.

    Args:
        names: Full names of the modules to observe.
        callback: Called with the module each time its body has run without an error. It must not raise, since the
            user's import statement would then fail.
    """

    def __init__(self, names: Iterable[str], callback: Callable[[ModuleType], None]) -> None:
        self._names = frozenset(names)
        self._callback = callback
        # Names that may come into `sys.modules` without a wrapped loader.
        self._unseen = set(self._names)

    @property
    def installed(self) -> bool:
        """Whether this hook is on `sys.meta_path`."""
        return self in sys.meta_path

    def install(self) -> None:
        """Observe from now on and report modules that are imported already. Any further call changes nothing."""
        if not self.installed:
            sys.meta_path.insert(0, self)
        self._catch_up()

    def find_spec(
        self,
        fullname: str,
        path: Sequence[str] | None = None,
        target: ModuleType | None = None,
    ) -> ModuleSpec | None:
        """Find an observed module with the other finders and wrap the loader of its spec.

        Args:
            fullname: Name of the module that is being imported.
            path: `__path__` of its parent package, `None` for a top-level module.
            target: The module that is being reloaded, if any.

        Returns:
            The spec, or `None` for a module that is not observed or that no finder finds.
        """
        try:
            self._catch_up()
            return self._find_reporting_spec(fullname, path, target) if fullname in self._names else None
        except Exception:  # noqa: BLE001 - the import goes on without this hook, whose package may be uninstalled
            return None

    def _find_reporting_spec(
        self,
        fullname: str,
        path: Sequence[str] | None,
        target: ModuleType | None,
    ) -> ModuleSpec | None:
        # Only the finders behind this one: the others were asked before, and two such hooks must not call each other.
        for finder in sys.meta_path[sys.meta_path.index(self) + 1 :]:
            find_spec = getattr(finder, "find_spec", None)
            spec = find_spec(fullname, path, target) if find_spec is not None else None
            if spec is not None:
                return self._with_reporting_loader(spec)
        return None

    def _with_reporting_loader(self, spec: ModuleSpec) -> ModuleSpec:
        from anomalib_crad.plugin.import_state import ReportingLoader

        if hasattr(spec.loader, "exec_module"):
            spec.loader = ReportingLoader(spec.loader, self._report)  # type: ignore[assignment]
            self._unseen.discard(spec.name)
        return spec

    def _catch_up(self) -> None:
        """Report or watch observed modules that were imported before this hook or without it."""
        for name in tuple(self._unseen):
            module = sys.modules.get(name)
            if module is not None:
                self._unseen.discard(name)  # first, since the next line imports modules and so calls this again
                if not self._report_or_watch(module):
                    self._unseen.add(name)

    def _report_or_watch(self, module: ModuleType) -> bool:
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
