# SPDX-License-Identifier: Apache-2.0

"""Frozen multi-scale features of a pretrained backbone.

Feature maps of several stages of any timm model are resized to the finest or the coarsest of them and concatenated.
The pretrained weights are fetched when they are first needed, not when the model is built: a checkpoint or an export
brings its own, and loading one must not access the network.

Axis letters: B batch, C channels (of all stages together), H x W positions of the stage that all are resized to.
"""

from __future__ import annotations

import difflib
import logging
from typing import TYPE_CHECKING, Any, Literal, cast

import timm
import torch
from timm.layers import Format
from torch import nn
from torch.nn import functional

from anomalib_crad.models.components.weights import WEIGHT_PACKAGES, architecture_of, load_pretrained

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from timm.models import FeatureInfo

logger = logging.getLogger(__name__)

#: EfficientNet-B4 trained on ImageNet alone, as in the papers of our models; timm's plain ``tf_efficientnet_b4`` is
#: trained on far more images.
EFFICIENTNET_B4 = "tf_efficientnet_b4.aa_in1k"


class MultiScaleFeatures(nn.Module):
    """Concatenated feature maps of a frozen timm backbone.

    Args:
        backbone: Name of a timm model that gives feature maps, with its weights' tag if wanted
            (``tf_efficientnet_b4.aa_in1k``).
        layers: Stages to take, in the order of concatenation: their number in ``feature_info`` (timm's
            ``out_indices``) or their name (``layer2`` of a ResNet).
        image_size: Height and width of the images; every stage's stride must divide both.
        pre_trained: Use pretrained weights; without them features are random. Defaults to ``True``.
        weights: Where the weights come from: a local file, or the name of a package that carries them
            (:data:`.weights.WEIGHT_PACKAGES`). Defaults to ``None``: timm's hub.
        resize_to: Stage to whose size all are resized: the ``"finest"`` or the ``"coarsest"`` of ``layers``.
            Defaults to ``"finest"``.

    Attributes:
        out_channels: C.
        feature_size: (H, W), the image size divided by the stride of the stage that all are resized to.

    Raises:
        TypeError: If ``layers`` is a single stage instead of a list.
        ValueError: If the backbone, a stage or ``resize_to`` is unknown, or the image size does not fit.
    """

    def __init__(
        self,
        backbone: str,
        layers: Sequence[int | str],
        image_size: tuple[int, int],
        pre_trained: bool = True,
        weights: str | Path | None = None,
        resize_to: Literal["finest", "coarsest"] = "finest",
    ) -> None:
        super().__init__()
        if isinstance(layers, int | str):
            msg = f"layers must be a list of stages, got {layers!r}; write [{layers!r}]."
            raise TypeError(msg)
        weights = None if weights is None else str(weights)
        if resize_to not in {"finest", "coarsest"}:
            msg = f"resize_to must be 'finest' or 'coarsest', got {resize_to!r}."
            raise ValueError(msg)
        if weights is not None and not pre_trained:
            msg = f"weights='{weights}' is given but pre_trained is False; drop one of the two."
            raise ValueError(msg)
        config = _pretrained_config(backbone)
        if pre_trained:
            _check_weights_exist(config, backbone, weights)
        self.backbone_name = backbone
        self.weights = weights
        self.options: dict[str, Any] = {"features_only": True}
        if config.fixed_input_size:
            self.options["img_size"] = tuple(image_size)
        self.options["out_indices"] = _stage_numbers(backbone, layers, self.options)
        self.backbone = (
            timm.create_model(backbone, pretrained=False, **self.options).requires_grad_(requires_grad=False).eval()
        )
        # timm returns stages in ascending order whatever the order asked for.
        ascending = sorted(self.options["out_indices"])
        self.order = [ascending.index(number) for number in self.options["out_indices"]]
        self.channels_last = getattr(self.backbone, "output_fmt", Format.NCHW) == Format.NHWC

        info: FeatureInfo = cast("FeatureInfo", self.backbone.feature_info)
        reductions = info.reduction()
        _check_image_size(image_size, reductions, backbone)
        self.out_channels = sum(info.channels())
        stride = min(reductions) if resize_to == "finest" else max(reductions)
        self.feature_size = (image_size[0] // stride, image_size[1] // stride)

        self.has_weights = not pre_trained
        if not pre_trained:
            logger.warning("pre_trained=False: features of '%s' are random unless a checkpoint is loaded.", backbone)
        self.register_load_state_dict_post_hook(_note_loaded_weights)

    def load_weights(self) -> None:
        """Fetch the pretrained weights, if no weights have been loaded yet.

        Raises:
            ConnectionError: If the hub cannot be reached.
            FileNotFoundError: If ``weights`` is no file and no known package.
            ImportError: If a weight package is not installed.
            ValueError: If the weights cannot be read or do not match.
        """
        if self.has_weights:
            return
        load_pretrained(self.backbone, self.backbone_name, self.weights, self.options)
        self.has_weights = True

    def train(self, mode: bool = True) -> MultiScaleFeatures:
        """Set the mode, but leave the frozen backbone in evaluation mode."""
        super().train(mode)
        self.backbone.eval()
        return self

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Extract features.

        Args:
            images: Normalised images, B x 3 x height x width.

        Returns:
            Features, B x C x H x W.
        """
        # Corners are aligned as in the authors' release.
        stages = [
            stage
            if tuple(stage.shape[-2:]) == self.feature_size
            else functional.interpolate(stage, size=self.feature_size, mode="bilinear", align_corners=True)
            for stage in self.stages(images)
        ]
        return torch.cat(stages, dim=1)

    def stages(self, images: torch.Tensor) -> list[torch.Tensor]:
        """Extract the feature maps that :meth:`forward` concatenates, each of its own size.

        Args:
            images: Normalised images, B x 3 x height x width.

        Returns:
            Feature maps in the order of ``layers``, each B x its channels x its height x its width.
        """
        self.load_weights()
        stages = self.backbone(images)
        if self.channels_last:
            stages = [stage.permute(0, 3, 1, 2) for stage in stages]
        return [stages[index] for index in self.order]


def image_statistics(backbone: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Look up how a backbone's images were normalised.

    Args:
        backbone: Name of a timm model, with or without a tag.

    Returns:
        Mean and standard deviation of each channel.

    Raises:
        ValueError: If timm does not know the backbone.
    """
    config = _pretrained_config(backbone)
    return tuple(config.mean), tuple(config.std)


def _check_weights_exist(config: Any, backbone: str, weights: str | None) -> None:  # noqa: ANN401  # PretrainedCfg
    """Raise if the names alone show that training cannot start."""
    if weights is None and not config.has_weights:
        msg = (
            f"timm has no pretrained weights for backbone='{backbone}' (it has: {_known_tags(backbone)}). "
            "Pass a file with weights=PATH, or choose another backbone."
        )
        raise ValueError(msg)
    architecture = WEIGHT_PACKAGES.get(weights or "")
    if architecture is not None and architecture_of(backbone) != architecture:
        msg = (
            f"weights='{weights}' belongs to backbone '{architecture}', but backbone is '{backbone}'. "
            f"Set backbone to '{architecture}' too (--model.backbone {architecture})."
        )
        raise ValueError(msg)


def _note_loaded_weights(module: MultiScaleFeatures, incompatible_keys: Any) -> None:  # noqa: ANN401  # torch's private type
    """After a state dict was loaded, note whether it held all weights of the backbone."""
    missing = any("backbone." in name for name in incompatible_keys.missing_keys)
    module.has_weights = module.has_weights or not missing


def _pretrained_config(backbone: str) -> Any:  # noqa: ANN401  # timm's PretrainedCfg
    """Ask timm to describe a model's weights."""
    if not timm.is_model(backbone):
        near = difflib.get_close_matches(architecture_of(backbone), timm.list_models(), n=5, cutoff=0.5)
        hint = f"Did you mean {', '.join(near)}? " if near else ""
        msg = f"backbone='{backbone}' is not a timm model. {hint}timm.list_models() lists all."
        raise ValueError(msg)
    try:
        return timm.get_pretrained_cfg(backbone)
    except RuntimeError as error:
        msg = f"backbone='{backbone}' names unknown pretrained weights. timm knows: {_known_tags(backbone)}."
        raise ValueError(msg) from error


def _known_tags(backbone: str) -> str:
    return ", ".join(timm.list_models(f"{architecture_of(backbone)}.*", pretrained=True)) or "none"


def _stage_numbers(backbone: str, layers: Sequence[int | str], options: dict[str, Any]) -> tuple[int, ...]:
    """Numbers of stages that are given by number or name."""
    try:
        with torch.device("meta"):  # only names and strides are needed
            probe = timm.create_model(backbone, pretrained=False, **options)
    except (RuntimeError, AttributeError, TypeError, NotImplementedError) as error:
        msg = f"backbone='{backbone}' gives no feature maps (timm: {error}). Choose a convolutional or ViT model."
        raise ValueError(msg) from error
    stages = cast("FeatureInfo", probe.feature_info).info
    names = [stage["module"] for stage in stages]
    known = ", ".join(
        f"{number} ({stage['module']}, stride {stage['reduction']})" for number, stage in enumerate(stages)
    )
    if not layers:
        msg = f"layers is empty. '{backbone}' has: {known}."
        raise ValueError(msg)
    numbers = []
    for layer in layers:
        number = names.index(layer) if layer in names else layer
        if not isinstance(number, int) or not -len(names) <= number < len(names):
            msg = f"layers: '{backbone}' has no stage {layer!r}. It has: {known}."
            raise ValueError(msg)
        numbers.append(number % len(names))
    if len(set(numbers)) != len(numbers):
        msg = f"layers={list(layers)} names a stage twice. '{backbone}' has: {known}."
        raise ValueError(msg)
    return tuple(numbers)


def _check_image_size(image_size: tuple[int, int], reductions: Sequence[int], backbone: str) -> None:
    stride = max(reductions)
    if any(side < stride or side % stride for side in image_size):
        fitting = " x ".join(str(max(round(side / stride), 1) * stride) for side in image_size)
        msg = (
            f"image_size {image_size[0]} x {image_size[1]} (height x width) does not fit: the stages of '{backbone}' "
            f"have strides {', '.join(map(str, reductions))}, which must divide both sides. The nearest that fits is "
            f"{fitting}."
        )
        raise ValueError(msg)
