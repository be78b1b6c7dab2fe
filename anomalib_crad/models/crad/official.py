# SPDX-License-Identifier: Apache-2.0

"""Converts the authors' trained head to ours.

The authors' release names its tensors by position (``layer.0.conv.3.weight``), we name them by meaning. Their layouts
are the same, except that the linear layers of squeeze-and-excite are 1 x 1 convolutions here.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

_NAMES = {
    "query.0": "local_memory.grid.values",
    "query.1": "global_memory.grid.values",
    "coord.0": "local_memory.coordinates.0",
    "coord.2": "local_memory.coordinates.2",
    "coord_.0": "global_memory.coordinates.2",
    "coord_.2": "global_memory.coordinates.4",
    "recover": "fusion.recover",
}
_BLOCK_NAMES = {
    "0": "expand.0",
    "1": "expand.1",
    "3": "depthwise.0",
    "4": "depthwise.1",
    "5.fc.0": "depthwise.2.fc1",
    "5.fc.2": "depthwise.2.fc2",
    "7": "project.0",
    "8": "project.1",
}
_LEAF = r"weight|bias|running_mean|running_var|num_batches_tracked"
_BLOCK_KEY = re.compile(rf"layer\.(?P<index>\d+)\.conv\.(?P<part>[\d.fc]+)\.(?P<leaf>{_LEAF})")
_KEY = re.compile(rf"(?P<part>query\.\d|coord_?\.\d|recover)(?:\.(?P<leaf>{_LEAF}))?")


def convert_state_dict(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename the authors' state dict for :class:`.torch_model.ContinuousMemoryReconstruction`.

    Args:
        state_dict: State dict of the authors' head: grids ``query.*``, coordinate networks ``coord.*`` (local) and
            ``coord_.*`` (global), blocks ``layer.I.conv.J.*`` and ``recover.weight``. A ``module.`` prefix, as left
            by data-parallel training, is dropped.

    Returns:
        A state dict to be loaded with ``strict=True``. Tensors are shared with the input, not copied.

    Raises:
        ValueError: If a name is not one of the authors' head.
    """
    return dict(_convert(name.removeprefix("module."), tensor) for name, tensor in state_dict.items())


def _convert(name: str, tensor: Tensor) -> tuple[str, Tensor]:
    if match := _BLOCK_KEY.fullmatch(name):
        part = _BLOCK_NAMES.get(match["part"])
        if part is not None:
            if part.startswith("depthwise.2"):
                tensor = tensor[:, :, None, None]  # linear layer -> 1 x 1 convolution
            return f"fusion.blocks.{match['index']}.{part}.{match['leaf']}", tensor
    elif (match := _KEY.fullmatch(name)) and match["part"] in _NAMES:
        leaf = f".{match['leaf']}" if match["leaf"] else ""
        return _NAMES[match["part"]] + leaf, tensor
    msg = (
        f"'{name}' is not a tensor of the authors' CRAD head. Pass only the head's state dict, without the backbone "
        "(names begin with query., coord., coord_., layer. or recover.)."
    )
    raise ValueError(msg)
