# SPDX-License-Identifier: Apache-2.0

"""Converts the authors' trained head to ours.

The authors' release names its layers as PyTorch's own transformer does. It keeps the projections of queries, keys and
values in one matrix, in this order; ours are three matrices.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

_NAMES = {
    "pos_embed.row_embed.weight": "position.rows",
    "pos_embed.col_embed.weight": "position.columns",
    "input_proj.weight": "input_projection.weight",
    "input_proj.bias": "input_projection.bias",
    "output_proj.weight": "output_projection.weight",
    "output_proj.bias": "output_projection.bias",
    "transformer.decoder.norm.weight": "decoder.norm.weight",
    "transformer.decoder.norm.bias": "decoder.norm.bias",
}
_LAYER_NAMES = {
    "encoder": {
        "self_attn": "attention",
        "linear1": "feed_forward.0",
        "linear2": "feed_forward.3",
        "norm1": "attention_norm.norm",
        "norm2": "feed_forward_norm.norm",
    },
    "decoder": {
        "learned_embed": "queries",
        "self_attn": "encoded_attention",
        "multihead_attn": "previous_attention",
        "linear1": "feed_forward.0",
        "linear2": "feed_forward.3",
        "norm1": "encoded_norm.norm",
        "norm2": "previous_norm.norm",
        "norm3": "feed_forward_norm.norm",
    },
}
_LAYER_KEY = re.compile(
    r"transformer\.(?P<stack>encoder|decoder)\.layers\.(?P<index>\d+)\.(?P<part>\w+)\.(?P<leaf>[\w.]+)"
)
_PROJECTIONS = ("query", "key", "value")


def convert_state_dict(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename the authors' state dict for :class:`.torch_model.UniADReconstruction`.

    Args:
        state_dict: State dict of the authors' head: ``pos_embed.*``, ``transformer.encoder.*``,
            ``transformer.decoder.*``, ``input_proj.*`` and ``output_proj.*``. A ``module.`` prefix, as left by
            data-parallel training, is dropped.

    Returns:
        A state dict to be loaded with ``strict=True``. Tensors are shared with the input, not copied.

    Raises:
        ValueError: If a name is not one of the authors' head.
    """
    converted: dict[str, Tensor] = {}
    for name, tensor in state_dict.items():
        converted.update(_convert(name.removeprefix("module."), tensor))
    return converted


def _convert(name: str, tensor: Tensor) -> dict[str, Tensor]:
    if name in _NAMES:
        return {_NAMES[name]: tensor}
    match = _LAYER_KEY.fullmatch(name)
    part = _LAYER_NAMES[match["stack"]].get(match["part"]) if match else None
    if match is None or part is None:
        msg = (
            f"'{name}' is not a tensor of the authors' UniAD head. Pass only the head's state dict, without the "
            "backbone (names begin with pos_embed., transformer., input_proj. or output_proj.)."
        )
        raise ValueError(msg)
    prefix = f"{match['stack']}.layers.{match['index']}.{part}"
    leaf = match["leaf"]
    if part == "queries":
        return {prefix: tensor}
    if leaf.startswith("in_proj_"):
        parts = zip(_PROJECTIONS, tensor.chunk(3), strict=True)
        return {f"{prefix}.{projection}.{leaf.removeprefix('in_proj_')}": value for projection, value in parts}
    return {f"{prefix}.{leaf.replace('out_proj', 'output')}": tensor}
