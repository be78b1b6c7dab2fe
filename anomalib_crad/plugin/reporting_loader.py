# SPDX-License-Identifier: Apache-2.0

"""A module loader that tells when it has executed its module; the part of `import_hook.py` that is seldom needed.

Unlike other wrapping loaders it is gone before the module's body runs: the module's spec and `__loader__` are those
that it would have without us, so that reading its source or its resources and reloading it work as ever.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from anomalib_crad.plugin.import_state import marked_as_executed

if TYPE_CHECKING:
    from collections.abc import Callable
    from importlib.machinery import ModuleSpec
    from types import ModuleType
    from typing import Any


class ReportingLoader:
    """A loader around another one that reports the module it has executed.

    Args:
        loader: The loader that does the work, with `exec_module`; all that it has can be reached through this one.
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
            The module, or `None` for the usual way.
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
        """Return what the wrapped loader has."""
        if name == "_loader":  # a copy without state, as `copy` and `pickle` make one
            raise AttributeError(name)
        return getattr(self._loader, name)
