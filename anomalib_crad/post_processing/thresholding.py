# SPDX-License-Identifier: Apache-2.0

"""State and arithmetic of a post-processor with several thresholds: squash, label, save and load.

Pooled thresholds are anomalib's own buffers, so state dicts have anomalib's keys and either class loads the other's
checkpoint (anomalib's then calls the same images anomalous). anomalib's range of normalisation stores our scale. The
names of categories come from the data, so their thresholds are saved as plain data beside the tensors.
"""

import logging
from typing import Any

import torch
from anomalib.data import Batch, InferenceBatch
from anomalib.post_processing import PostProcessor
from torch import Tensor

from anomalib_crad.post_processing.thresholds import (
    LevelThresholds,
    Threshold,
    Thresholds,
    categories_from_plain,
    categories_to_plain,
    squash,
    unknown_category,
)

logger = logging.getLogger(__name__)

_CATEGORIES_KEY = "category_thresholds"
#: anomalib normalises linearly over a range. A range of this many scales agrees with ours at 0.25, 0.5 and 0.75.
_RANGE_IN_SCALES = 4


class _ThresholdingPostProcessor(PostProcessor):
    """Squash and threshold scores with given thresholds, pooled or of a category.

    Args:
        enable_normalization (bool, optional): Squash scores; raw scores otherwise. Defaults to ``True``.
        enable_thresholding (bool, optional): Give labels and masks. Defaults to ``True``.
        enable_threshold_matching (bool, optional): Use the threshold of images for pixels where those have none, and
            the other way round. Defaults to ``True``.
        image_sensitivity (float, optional): Images are anomalous above ``1 - image_sensitivity`` on the squashed scale.
            Between 0 and 1. Defaults to ``0.5``.
        pixel_sensitivity (float, optional): The same for pixels. Defaults to ``0.5``.

    Raises:
        ValueError: If a sensitivity is out of its range.
    """

    def __init__(
        self,
        enable_normalization: bool = True,
        enable_thresholding: bool = True,
        enable_threshold_matching: bool = True,
        image_sensitivity: float = 0.5,
        pixel_sensitivity: float = 0.5,
    ) -> None:
        for name, value in (("image_sensitivity", image_sensitivity), ("pixel_sensitivity", pixel_sensitivity)):
            if not 0 <= value <= 1:
                msg = f"{name} must be between 0 and 1, got {value}."
                raise ValueError(msg)
        super().__init__(
            enable_normalization=enable_normalization,
            enable_thresholding=enable_thresholding,
            enable_threshold_matching=enable_threshold_matching,
            image_sensitivity=image_sensitivity,
            pixel_sensitivity=pixel_sensitivity,
        )
        self._own_thresholds: dict[str, LevelThresholds] = {}
        self._warnings: set[str] = set()

    @property
    def thresholds(self) -> Thresholds:
        """The pooled thresholds and those of each category, on raw scores."""
        pooled = [
            None if threshold.isnan() else Threshold(float(threshold), float(scale))
            for threshold, scale in (self._pooled_image(), self._pooled_pixel())
        ]
        return Thresholds(LevelThresholds(*pooled), dict(self._own_thresholds))

    @thresholds.setter
    def thresholds(self, thresholds: Thresholds) -> None:
        for name, found in (("image", thresholds.pooled.image), ("pixel", thresholds.pooled.pixel)):
            value, half = (float("nan"),) * 2 if found is None else (found.value, found.scale * _RANGE_IN_SCALES / 2)
            getattr(self, f"_{name}_threshold").fill_(value)
            getattr(self, f"{name}_min").fill_(value - half)
            getattr(self, f"{name}_max").fill_(value + half)
        self._own_thresholds = dict(thresholds.categories)

    def _pooled_image(self) -> tuple[Tensor, Tensor]:
        """Return threshold and scale of images; operations on tensors only, so that an exported graph has them."""
        own_range, other_range = self.image_max - self.image_min, self.pixel_max - self.pixel_min
        return self.image_threshold, _scale(torch.where(self._image_threshold.isnan(), other_range, own_range))

    def _pooled_pixel(self) -> tuple[Tensor, Tensor]:
        """Return threshold and scale of pixels, in the same way."""
        own_range, other_range = self.pixel_max - self.pixel_min, self.image_max - self.image_min
        return self.pixel_threshold, _scale(torch.where(self._pixel_threshold.isnan(), other_range, own_range))

    def forward(self, predictions: InferenceBatch, category: str | None = None) -> InferenceBatch:
        """Squash and threshold predictions.

        Args:
            predictions: Raw predictions: scores of B images, or their anomaly maps, or both.
            category: Category of all these images, whose own thresholds are used. Defaults to ``None``: the pooled
                thresholds, as in exported models.

        Returns:
            Squashed scores and maps, labels and masks.

        Raises:
            ValueError: If there is neither a score nor a map, or the category has no thresholds.
        """
        scores, maps = predictions.pred_score, predictions.anomaly_map
        if scores is None:
            if maps is None:
                msg = "predictions hold neither pred_score nor anomaly_map; at least one is needed."
                raise ValueError(msg)
            scores = torch.amax(maps, dim=(-2, -1))
        self._check_category(category)
        categories = None if category is None else [category] * len(scores)
        squashed_scores = self._squash_images(scores, categories)
        squashed_maps = None if maps is None else self._squash_pixels(maps, categories)
        label = self._apply_threshold(squashed_scores, self.normalized_image_threshold)
        mask = self._apply_threshold(squashed_maps, self.normalized_pixel_threshold)
        return InferenceBatch(
            pred_score=squashed_scores if self.enable_normalization else scores,
            pred_label=label if self.enable_thresholding else None,
            anomaly_map=squashed_maps if self.enable_normalization else maps,
            pred_mask=mask if self.enable_thresholding else None,
        )

    def post_process_batch(self, batch: Batch, category: str | None = None) -> None:
        """Squash and threshold the predictions of a batch, in place.

        Args:
            batch: Batch with raw predictions; labels and masks that it has already are kept.
            category: Category of all its images. Defaults to ``None``: the pooled thresholds.

        Raises:
            ValueError: If the category has no thresholds.
        """
        self._check_category(category)
        count = len(batch.image)  # type: ignore[arg-type] # always there
        self._post_process(batch, None if category is None else [category] * count)

    def _post_process(self, batch: Batch, categories: list[str] | None) -> None:
        """Post-process images of several categories; the pooled thresholds serve a category without its own."""
        scores, maps = batch.pred_score, batch.anomaly_map
        squashed_scores = None if scores is None else self._squash_images(scores, categories)
        squashed_maps = None if maps is None else self._squash_pixels(maps, categories)
        if self.enable_normalization:
            batch.pred_score, batch.anomaly_map = squashed_scores, squashed_maps
        if self.enable_thresholding:
            if batch.pred_label is None:
                batch.pred_label = self._apply_threshold(squashed_scores, self.normalized_image_threshold)
            if batch.pred_mask is None:
                batch.pred_mask = self._apply_threshold(squashed_maps, self.normalized_pixel_threshold)

    def _squash_images(self, scores: Tensor, categories: list[str] | None) -> Tensor:
        """Squash scores of B images."""
        threshold, scale = self._pooled_image()
        self._warn_without_threshold(threshold)
        if categories is not None and self._own_thresholds:
            self._warn_without_own(categories)
            own = [self._own(category).image for category in categories]
            threshold, scale = _of_each(own, threshold, scale, scores.ndim)
        return squash(scores, threshold, scale)

    def _squash_pixels(self, maps: Tensor, categories: list[str] | None) -> Tensor:
        """Squash maps of B images."""
        threshold, scale = self._pooled_pixel()
        if categories is not None and self._own_thresholds:
            own = [self._own(category).pixel for category in categories]
            threshold, scale = _of_each(own, threshold, scale, maps.ndim)
        return squash(maps, threshold, scale)

    def _own(self, category: str) -> LevelThresholds:
        return self._own_thresholds.get(category, LevelThresholds())

    def _warn_without_own(self, categories: list[str]) -> None:
        for category in dict.fromkeys(categories):
            if category not in self._own_thresholds:
                known = ", ".join(self._own_thresholds)
                self._warn(
                    f"No threshold was found for category '{category}' (there are: {known}): the pooled one is used. "
                    "Where the images are of a known category, say so: dataset.category, or the datamodule's name.",
                )

    def _check_category(self, category: str | None) -> None:
        if category is not None and category not in self._own_thresholds:
            raise ValueError(unknown_category(category, self._own_thresholds))

    def _warn_without_threshold(self, threshold: Tensor) -> None:
        # An exported graph can neither branch on a value nor log a message.
        if not torch.compiler.is_compiling() and bool(threshold.isnan()):
            self._warn(
                "No validation has found thresholds: scores are returned raw, and labels and masks mean nothing. Run "
                "Engine.validate with labelled or normal images first.",
            )

    def _warn(self, message: str) -> None:
        """Log a warning, each message only once."""
        if message not in self._warnings:
            self._warnings.add(message)
            logger.warning(message)

    def checkpoint_config(self) -> dict[str, Any]:
        """Return arguments and per-category thresholds as plain data; the pooled ones are buffers."""
        return {**super().checkpoint_config(), _CATEGORIES_KEY: categories_to_plain(self._own_thresholds)}

    def load_checkpoint_config(self, config: dict[str, Any]) -> None:
        """Restore what :meth:`checkpoint_config` returned, of this class or of anomalib's.

        Args:
            config: Plain data.
        """
        super().load_checkpoint_config(config)
        self._own_thresholds = categories_from_plain(config.get(_CATEGORIES_KEY, {}))

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        # The metadata of a state dict takes values that are not tensors. A new key in the state dict itself would keep
        # anomalib's post-processor, which `load_from_checkpoint` builds for most models, from loading the rest.
        super()._save_to_state_dict(destination, prefix, keep_vars)
        metadata = getattr(destination, "_metadata", {}).get(prefix[:-1])
        if metadata is not None:
            metadata[_CATEGORIES_KEY] = categories_to_plain(self._own_thresholds)

    def _load_from_state_dict(
        self,
        state_dict: dict[str, Any],
        prefix: str,
        local_metadata: dict[str, Any],
        *arguments: Any,  # noqa: ANN401
    ) -> None:
        super()._load_from_state_dict(state_dict, prefix, local_metadata, *arguments)
        # Tools that rebuild a state dict drop its metadata; the thresholds from `load_checkpoint_config` stay then.
        if local_metadata:
            self._own_thresholds = categories_from_plain(local_metadata.get(_CATEGORIES_KEY, {}))


def _scale(value_range: Tensor) -> Tensor:
    """Turn a range into a scale. The scale of a missing or empty range, which anomalib's may save, is 1."""
    return torch.where(value_range > 0, value_range / _RANGE_IN_SCALES, torch.ones_like(value_range))


def _of_each(own: list[Threshold | None], threshold: Tensor, scale: Tensor, ndim: int) -> tuple[Tensor, Tensor]:
    """Return threshold and scale of each of B images, pooled where it has no own, to broadcast over ``ndim`` axes."""
    thresholds, scales = threshold.repeat(len(own)), scale.repeat(len(own))
    for i, found in enumerate(own):
        if found is not None:
            thresholds[i], scales[i] = found.value, found.scale
    shape = (-1, *[1] * (ndim - 1))
    return thresholds.reshape(shape), scales.reshape(shape)
