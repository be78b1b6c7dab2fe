# SPDX-License-Identifier: Apache-2.0

"""Names of the authors' trained head and ours.

The authors' head has one batch norm for the knowledge of both banks, ours has one for each: both start from theirs.
Two of its layers have no part in its output and have no place here: the keys of an attention over a single entry, and
a feed-forward layer that is never called.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

_NAMES = {
    "pre_projection.layers.0fc": ("projection",),
    "knowledge_aug.cross_attn.v_linear": ("knowledge.value",),
    "knowledge_aug.norm": ("knowledge.normal_norm", "knowledge.abnormal_norm"),
    "knowledge_aug.cross_attn.k_linear": (),
    "knowledge_aug.ffn": (),
    "mlp.body.block1.0": ("scorer.0",),
    "mlp.body.block1.1": ("scorer.1",),
    "mlp.tail": ("scorer.3",),
}


def convert_state_dict(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename the authors' state dict for :class:`.torch_model.DMADHead`.

    Args:
        state_dict: State dict of the authors' projection (``pre_projection.*``), knowledge (``knowledge_aug.*``) and
            scorer (``mlp.*``). A ``module.`` prefix, as left by data-parallel training, is dropped.

    Returns:
        A state dict to be loaded with ``strict=True``. Tensors are shared with the input, not copied.

    Raises:
        ValueError: If a name is not one of the authors' head.
    """
    converted = {}
    for name, tensor in state_dict.items():
        part, _, leaf = name.removeprefix("module.").rpartition(".")
        if part not in _NAMES:
            msg = (
                f"'{name}' is not a tensor of the authors' DMAD head. Pass only the head's state dict, without the "
                "backbone and the banks (names begin with pre_projection., knowledge_aug. or mlp.)."
            )
            raise ValueError(msg)
        converted.update({f"{ours}.{leaf}": tensor for ours in _NAMES[part]})
    return converted
