# SPDX-License-Identifier: Apache-2.0

"""Names of the authors' trained head and ours.

The authors' release keeps codebooks and output layers of each category apart, ours are stacked; its codes are columns,
ours are rows; its lists of codebooks are numbered from 1. It names its layers as PyTorch's own transformer does and
keeps the projections of queries, keys and values in one matrix, in this order; ours are three.
"""

from __future__ import annotations

import re
from collections import defaultdict
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

#: What the release's checkpoint holds beside the head, and what its head holds unused.
_DROPPED = ("enc.", "input_proj.")
_NAMES = {
    "pos_embed.row_embed.weight": "position.rows",
    "pos_embed.col_embed.weight": "position.columns",
    "quantize_conv_t.weight": "input_projection.weight",
    "quantize_conv_t.bias": "input_projection.bias",
    "decoder.norm.weight": "decoder.norm.weight",
    "decoder.norm.bias": "decoder.norm.bias",
}
_LAYERS = {"encoder": "encoder", "decoder": "decoder.layers"}
_LAYER_NAMES = {
    "encoder": {
        "self_attn": "attention",
        "linear1": "feed_forward.0",
        "linear2": "feed_forward.3",
        "norm1": "attention_norm.norm",
        "norm2": "feed_forward_norm.norm",
    },
    "decoder": {
        "self_attn": "self_attention",
        "multihead_attn": "level_attention",
        "linear1": "feed_forward.0",
        "linear2": "feed_forward.3",
        "norm1": "self_attention_norm.norm",
        "norm2": "level_attention_norm.norm",
        "norm3": "feed_forward_norm.norm",
    },
}
_CODEBOOK_NAMES = {"embed": "codes", "cluster_size": "sizes", "embed_avg": "sums"}
_LAYER_KEY = re.compile(r"(?P<stack>encoder|decoder)\.layers\.(?P<index>\d+)\.(?P<part>\w+)\.(?P<leaf>[\w.]+)")
_EXPERT_KEYS = (
    re.compile(r"quantize_list_(?P<level>\d+)\.(?P<expert>\d+)\.(?P<leaf>embed|cluster_size|embed_avg)"),
    re.compile(r"output_proj_list\.(?P<expert>\d+)\.(?P<leaf>weight|bias)"),
)
_PROJECTIONS = ("query", "key", "value")


def convert_state_dict(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename the authors' state dict for :class:`.torch_model.HVQTransReconstruction`.

    Args:
        state_dict: State dict of the authors' model. A ``module.`` prefix, as left by data-parallel training, is
            dropped, and so are the backbone (``enc.*``) and the unused ``input_proj.*``. A backbone of the release is
            not frozen: a head of it is right only before the backbone that it was trained with.

    Returns:
        A state dict to be loaded with ``strict=True``.

    Raises:
        ValueError: If a name is not one of the authors' model, or an expert of some is missing.
    """
    converted: dict[str, Tensor] = {}
    experts: defaultdict[str, dict[int, Tensor]] = defaultdict(dict)
    for full_name, tensor in state_dict.items():
        name = full_name.removeprefix("module.")
        match = next((found for key in _EXPERT_KEYS if (found := key.fullmatch(name))), None)
        if match is not None:
            stacked, part = _convert_expert(match, tensor)
            experts[stacked][int(match["expert"])] = part
        elif not name.startswith(_DROPPED):
            converted.update(_convert(name, tensor))
    for name, parts in experts.items():
        if set(parts) != set(range(len(parts))):
            msg = f"'{name}' needs an expert of each number from 0 on, got those of {sorted(parts)}."
            raise ValueError(msg)
        converted[name] = torch.stack([parts[expert] for expert in range(len(parts))])
    return converted


def _convert_expert(match: re.Match[str], tensor: Tensor) -> tuple[str, Tensor]:
    if "level" not in match.groupdict():
        return f"output_projection.{match['leaf']}", tensor
    columns = match["leaf"] != "cluster_size"
    return f"codebooks.{int(match['level']) - 1}.{_CODEBOOK_NAMES[match['leaf']]}", tensor.T if columns else tensor


def _convert(name: str, tensor: Tensor) -> dict[str, Tensor]:
    if name in _NAMES:
        # The input projection is a 1 x 1 convolution there and a linear layer here.
        return {_NAMES[name]: tensor.flatten(1) if tensor.ndim == 4 else tensor}
    match = _LAYER_KEY.fullmatch(name)
    part = _LAYER_NAMES[match["stack"]].get(match["part"]) if match else None
    if match is None or part is None:
        msg = (
            f"'{name}' is not a tensor of the authors' HVQ-Trans. Pass the state dict of their model (names begin with "
            "enc., quantize_, encoder., decoder., pos_embed., input_proj. or output_proj_list.)."
        )
        raise ValueError(msg)
    prefix = f"{_LAYERS[match['stack']]}.{match['index']}.{part}"
    leaf = match["leaf"]
    if leaf.startswith("in_proj_"):
        parts = zip(_PROJECTIONS, tensor.chunk(3), strict=True)
        return {f"{prefix}.{projection}.{leaf.removeprefix('in_proj_')}": value for projection, value in parts}
    return {f"{prefix}.{leaf.replace('out_proj', 'output')}": tensor}
