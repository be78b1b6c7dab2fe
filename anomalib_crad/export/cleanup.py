# SPDX-License-Identifier: Apache-2.0

"""Names for the nodes of an exported graph: the module that each came from.

PyTorch's exporter numbers nodes (``node_Conv_807``), by numbers that change with every small edit of the model, and
keeps the module only in its own notes, along with the source lines, whose paths are those of the machine that exported.
Here the module becomes the name (``model.reconstruction.fusion.recover/node_Conv_807``) and the notes go. OpenVINO
keeps names, so a profile can be read and a part of the model can be told apart from another in any runtime.
"""

from __future__ import annotations

import ast
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from onnx import ModelProto, NodeProto

SEPARATOR = "/"
_NOTES = "pkg.torch"
_SCOPES = "pkg.torch.onnx.name_scopes"


def name_nodes_by_module(path: Path | str) -> None:
    """Rename the nodes of an ONNX file and drop the exporter's notes.

    Args:
        path: The file; weights in a file of their own stay there, unread.
    """
    import onnx

    model = onnx.load(path, load_external_data=False)
    for node in model.graph.node:
        module = _module(node)
        if module:
            node.name = f"{module}{SEPARATOR}{node.name}"
    _drop_notes(model)
    onnx.save(model, path)


def module_of(name: str) -> str:
    """Tell which module a named operation came from.

    Args:
        name: Name of a node, in ONNX or OpenVINO.

    Returns:
        Path of the module, such as ``model.reconstruction``; empty for an operation that a converter made.
    """
    module, separator, _ = name.partition(SEPARATOR)
    return module if separator else ""


def is_any_of(module: str, patterns: Iterable[str]) -> bool:
    """Tell whether a module is one that patterns name.

    Args:
        module: Path of the module.
        patterns: Paths with the shell's wildcards.
    """
    return any(fnmatchcase(module, pattern) for pattern in patterns)


def _module(node: NodeProto) -> str:
    """Innermost module of a node; its scopes go from the model, named '', down to the operation itself."""
    notes = {entry.key: entry.value for entry in node.metadata_props}
    scopes = ast.literal_eval(notes.get(_SCOPES, "[]"))
    modules = scopes[:-1]
    return modules[-1] if modules and modules[0] == "" else ""


def _drop_notes(model: ModelProto) -> None:
    graph = model.graph
    for entry in (model, graph, *graph.node, *graph.input, *graph.output, *graph.value_info, *graph.initializer):
        kept = [note for note in entry.metadata_props if not note.key.startswith(_NOTES)]
        del entry.metadata_props[:]
        entry.metadata_props.extend(kept)
