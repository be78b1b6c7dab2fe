# SPDX-License-Identifier: Apache-2.0

"""Publish the entry points of a group in the module of anomalib that has the group's name.

The plugin calls this for `anomalib.models` and `anomalib.data`, each right after its body has run. The classes may
belong to any distribution and fail in any way, which must never stop anomalib: every error becomes a warning. It never
replaces an attribute of anomalib's, so it does nothing with an anomalib that reads the groups itself.
"""

from __future__ import annotations

import logging
import sys
import warnings
from functools import partial
from importlib.metadata import entry_points
from typing import TYPE_CHECKING

from anomalib_crad.plugin.import_state import call_when_imported, is_half_imported

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint
    from types import ModuleType

logger = logging.getLogger(__name__)

_TARGETS = ("anomalib.data", "anomalib.models")


def publish_entry_points(target: ModuleType) -> None:
    """Publish every entry point of a target's group in the target; published ones stay as they are.

    While the package of an entry point, or the other target, is half imported, the entry point waits for the end of
    that import.

    Args:
        target: `anomalib.models` or `anomalib.data`, after its body has run. Each class becomes an attribute and part
            of `__all__`; the modules that export it join `ALLOWED_MODULES` if the target has that.
    """
    try:
        found = tuple(entry_points(group=target.__name__))
    except Exception as error:  # noqa: BLE001 - the metadata of any distribution may be damaged
        _warn(f"The entry points of the group '{target.__name__}' cannot be read", error)
        return
    for entry_point in found:
        _publish(target, entry_point)


def _publish(target: ModuleType, entry_point: EntryPoint) -> None:
    """Publish one entry point, now or once no module that it may need is half imported."""
    try:
        blocker = _first_half_imported(entry_point)
        if blocker is not None and call_when_imported(blocker, partial(_publish, target, entry_point)):
            return
        _publish_now(target, entry_point)
    except (Exception, SystemExit) as error:  # noqa: BLE001 - foreign code may fail in any way
        _warn(
            f"{target.__name__}.{entry_point.name} is missing, because the plugin '{entry_point.value}' cannot be "
            "loaded; repair or uninstall the package that declares it",
            error,
        )


def _first_half_imported(entry_point: EntryPoint) -> ModuleType | None:
    """Find the outermost half imported module that must be complete before an entry point can be loaded.

    It may be a module of the plugin's own package, which may be the first to import anomalib, or either target, since a
    plugin may import both and the user may have imported either first.
    """
    for name in (*_loaded_modules(_root(entry_point.module)), *_TARGETS):
        module = sys.modules.get(name)
        if module is not None and is_half_imported(module):
            return module
    return None


def _publish_now(target: ModuleType, entry_point: EntryPoint) -> None:
    holder = _foreign_holder_of_name(target, entry_point)
    if holder is not None:
        _warn(
            f"The plugin '{entry_point.name} = {entry_point.value}' is not loaded, because its name is taken by "
            f"{target.__name__}.{holder}; it needs another name",
        )
        return
    # The target has it already after a reload, and where anomalib reads the groups itself.
    published = getattr(target, entry_point.name, None)
    if published is None:
        published = entry_point.load()
        if not isinstance(published, type):
            msg = f"'{entry_point.value}' is not a class"
            raise TypeError(msg)
        setattr(target, entry_point.name, published)
    _add_to_public_names(target, entry_point.name)
    _allow_class_paths(target, entry_point.module, published)


def _foreign_holder_of_name(target: ModuleType, entry_point: EntryPoint) -> str | None:
    """Find the attribute of a target that an entry point would shadow and that is not the plugin's own.

    A class of that name must not even be loaded: the CLI and `get_model`, which ignores case, search the subclasses of
    `AnomalibModule` and would find it.
    """

    def is_foreign(value: object) -> bool:
        return _root(str(getattr(value, "__module__", ""))) != _root(entry_point.module)

    namesake = getattr(target, entry_point.name, None)
    if namesake is not None and is_foreign(namesake):
        return entry_point.name
    wanted = {entry_point.name.lower(), entry_point.attr.lower()}
    for name, value in tuple(vars(target).items()):
        if name.lower() in wanted and isinstance(value, type) and is_foreign(value):
            return name
    return None


def _add_to_public_names(target: ModuleType, name: str) -> None:
    public = getattr(target, "__all__", None)
    if isinstance(public, list) and name not in public:
        public.append(name)


def _allow_class_paths(target: ModuleType, module_name: str, published: type) -> None:
    """Let `get_model` import the class by its full path, from its module and from each parent that exports it."""
    allowed = getattr(target, "ALLOWED_MODULES", None)
    if not isinstance(allowed, set):
        return
    parts = module_name.split(".")
    candidates = {".".join(parts[:length]) for length in range(1, len(parts) + 1)}
    if _root(published.__module__) == parts[0]:
        candidates.add(published.__module__)
    for name in candidates:
        if getattr(sys.modules.get(name), published.__name__, None) is published:
            allowed.add(name)


def _loaded_modules(package: str) -> list[str]:
    """List a package and its modules in the order in which their imports began."""
    return [name for name in tuple(sys.modules) if name == package or name.startswith(f"{package}.")]


def _root(module_name: str) -> str:
    return module_name.partition(".")[0]


def _warn(message: str, error: BaseException | None = None) -> None:
    reason = "" if error is None else f" ({type(error).__name__}: {error})"
    text = f"{message}{reason}."
    try:
        warnings.warn(text, RuntimeWarning, stacklevel=2)
    except RuntimeWarning:  # under `-W error` too, a plugin must not stop `import torch` or anomalib
        logger.warning(text)
    if error is not None:
        logger.debug("The whole traceback:", exc_info=error)
