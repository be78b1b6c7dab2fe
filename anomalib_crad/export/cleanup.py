# SPDX-License-Identifier: Apache-2.0

"""Clean up after the exporters: names of nodes in the graph, and lines in the log.

PyTorch's exporter numbers nodes (``node_Conv_807``), and the numbers change with every small edit of the model. It
stores the module of a node only in its own notes, together with source lines that hold paths of the machine that
exported. This module turns the module into the name (``model.reconstruction.fusion.recover/node_Conv_807``) and deletes
the notes. OpenVINO keeps the names, so a user can read a profile of any runtime and tell the parts of the model apart.

anomalib's command line shows what every library logs. The ONNX exporter logs hundreds of constants that it merges, and
NNCF logs every operation that it does not quantise. Neither helps a user; warnings and what NNCF says about the
accuracy still show.
"""

from __future__ import annotations

import ast
import logging
import warnings
from contextlib import contextmanager
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable
    from pathlib import Path

    from onnx import ModelProto, NodeProto

SEPARATOR = "/"
_NOTES = "pkg.torch"
_SCOPES = "pkg.torch.onnx.name_scopes"
_CHATTY = ("onnx_ir", "onnxscript", "torch.onnx")
_ABOUT_OPERATIONS = ("Not adding activation input quantizer", "ignored nodes were found by name")


def name_nodes_by_module(path: Path | str) -> None:
    """Rename the nodes of an ONNX file and delete the exporter's notes.

    Args:
        path: The file; weights in a file of their own stay there, unread.
    """
    import onnx

    model = onnx.load(path, load_external_data=False)
    for node in model.graph.node:
        module = _module(node)
        if module:
            node.name = f"{module}{SEPARATOR}{node.name}"
    _delete_notes(model)
    onnx.save(model, path)


def module_of(name: str) -> str:
    """Return the module that an operation came from.

    Args:
        name: Name of the operation, in ONNX or OpenVINO.

    Returns:
        Path of the module, such as ``model.reconstruction``; empty for an operation that a converter added.
    """
    module, separator, _ = name.partition(SEPARATOR)
    return module if separator else ""


def is_any_of(module: str, patterns: Iterable[str]) -> bool:
    """Tell whether one of several patterns matches a module.

    Args:
        module: Path of the module.
        patterns: Paths with the shell's wildcards.

    Returns:
        Whether a pattern matches.
    """
    return any(fnmatchcase(module, pattern) for pattern in patterns)


@contextmanager
def quiet_quantizer() -> Generator[None, None, None]:
    """Hide what NNCF logs about operations that it does not quantise."""

    def is_useful(record: logging.LogRecord) -> bool:
        return not any(part in record.getMessage() for part in _ABOUT_OPERATIONS)

    logger = logging.getLogger("nncf")
    logger.addFilter(is_useful)
    try:
        yield
    finally:
        logger.removeFilter(is_useful)


@contextmanager
def quiet_exporter() -> Generator[None, None, None]:
    """Hide what the ONNX exporter logs below a warning, and deprecations in its own code."""
    loggers = [logging.getLogger(name) for name in _CHATTY]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            warnings.simplefilter("ignore", DeprecationWarning)
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _module(node: NodeProto) -> str:
    """Return the innermost module of a node.

    The scopes of a node begin with the model, whose name is '', and end with the operation itself.
    """
    notes = {entry.key: entry.value for entry in node.metadata_props}
    scopes = ast.literal_eval(notes.get(_SCOPES, "[]"))
    modules = scopes[:-1]
    return modules[-1] if modules and modules[0] == "" else ""


def _delete_notes(model: ModelProto) -> None:
    graph = model.graph
    for entry in (model, graph, *graph.node, *graph.input, *graph.output, *graph.value_info, *graph.initializer):
        kept = [note for note in entry.metadata_props if not note.key.startswith(_NOTES)]
        del entry.metadata_props[:]
        entry.metadata_props.extend(kept)
