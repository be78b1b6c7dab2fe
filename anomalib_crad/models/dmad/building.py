# SPDX-License-Identifier: Apache-2.0

"""Fills both banks of a model from training images, before its first step.

One pass over the training images gives the normal bank and the patches of annotated defects. Without annotated defects,
a second pass over as many normal images as are needed makes synthetic ones.

Bound:
    Whatever the number of images, normal patches are held by the chunk (:class:`.bank.StreamingCoreset`, 0.9 GB at the
    published sizes), and synthetic ones until there is a chunk of them (0.8 GB). Annotated patches are all held: they
    are few. Beside them are the banks themselves.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from anomalib.data.utils import read_image
from rich.progress import track
from torchvision.transforms.v2.functional import resize

from anomalib_crad.models.dmad.abnormal import (
    FOREIGN_RATIO,
    MarkedPatches,
    entries_with_annotations,
    entries_without_annotations,
    synthetic_defects,
    texture_files,
)
from anomalib_crad.models.dmad.bank import CHUNK_SIZE, CORESET_RATIO, StreamingCoreset, check_bank_arguments

if TYPE_CHECKING:
    from collections.abc import Callable

    from anomalib.data import ImageBatch
    from torch.utils.data import DataLoader

    from anomalib_crad.models.dmad.torch_model import DmadModel

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class BankBuilder:
    """Fills banks; what they are made of is said once.

    Attributes:
        coreset_ratio: Share of the normal patches that the normal bank takes. Defaults to ``0.02``.
        bank_size: Largest number of entries of each bank. Defaults to ``None``: no limit.
        textures: Folder of pictures of textures for the abnormal bank. Defaults to ``None``: there is none.
        synthetic: Without annotated defects, make synthetic ones. Defaults to ``True``.

    Raises:
        ValueError: If a size is one that no bank can have.
    """

    coreset_ratio: float = CORESET_RATIO
    bank_size: int | None = None
    textures: str | Path | None = None
    synthetic: bool = True

    def __post_init__(self) -> None:
        """Check the sizes."""
        check_bank_arguments(self.coreset_ratio, self.bank_size)

    @torch.no_grad()
    def fill(
        self,
        model: DmadModel,
        loader: DataLoader,
        transform: Callable[..., Any],
        progress: bool = False,
    ) -> dict[str, int]:
        """Fill both banks of a model.

        Args:
            model: The model, on the device on which banks are made.
            loader: Training images, those with defects with label and mask; in random order, so that a chunk is like
                any other.
            transform: Resizes and normalises images as the model takes them; of images and masks if it gets both.
            progress: Show progress bars. Defaults to ``False``.

        Returns:
            Entries of the abnormal bank by origin (:class:`.abnormal.AbnormalEntries`).

        Raises:
            FileNotFoundError: If ``textures`` is no folder of pictures.
            ValueError: If there is no normal image, or an anomalous one has no mask.
        """
        textures = None if self.textures is None else self._texture_patches(model, transform, progress)
        annotated = self._fill_normal(model, loader, transform, progress)
        if annotated.total:
            abnormal = entries_with_annotations(annotated, textures, self.bank_size)
        else:
            synthetic = _synthetic_patches(model, loader, transform, progress) if self.synthetic else None
            abnormal = entries_without_annotations(model.normal_bank.entries, synthetic, textures, self.bank_size)
        model.abnormal_bank.fill(abnormal.entries, abnormal.images)
        return abnormal.parts

    def _fill_normal(self, model: DmadModel, loader: DataLoader, transform: Callable, progress: bool) -> MarkedPatches:
        height, width = model.feature_extractor.feature_size
        images = len(loader.dataset)  # type: ignore[arg-type]  # a dataset with a length
        coreset = StreamingCoreset(images * height * width, self.coreset_ratio, self.bank_size)
        annotated = MarkedPatches()
        for batch in track(loader, "Filling the normal bank", disable=not progress):
            image, mask, anomalous = _prepare(batch, model, transform)
            patches = model.embed(image)
            coreset.add(patches[~anomalous].flatten(0, 1))
            if anomalous.any():
                if mask is None:
                    raise ValueError(_no_mask(batch, anomalous))
                annotated.add(patches[anomalous], mask[anomalous], (height, width))
        model.normal_bank.fill(coreset.finish())
        return annotated

    def _texture_patches(self, model: DmadModel, transform: Callable, progress: bool) -> torch.Tensor:
        files = texture_files(Path(cast("str", self.textures)))
        height, width = model.feature_extractor.feature_size
        coreset = StreamingCoreset(len(files) * height * width, FOREIGN_RATIO, self.bank_size)
        for path in track(files, "Reading textures", disable=not progress):
            picture = torch.as_tensor(read_image(path, as_tensor=True)).to(_device(model))
            coreset.add(model.embed(transform(_resized(picture.unsqueeze(0), model))).flatten(0, 1))
        return coreset.finish()


def _synthetic_patches(model: DmadModel, loader: DataLoader, transform: Callable, progress: bool) -> MarkedPatches:
    marked = MarkedPatches()
    for batch in track(loader, "Making synthetic defects", disable=not progress):
        images = _resized(torch.as_tensor(batch.image).to(_device(model)), model)
        defective, masks = synthetic_defects(images)
        marked.add(model.embed(transform(defective)), masks, model.feature_extractor.feature_size)
        if marked.total >= CHUNK_SIZE:
            break
    return marked


def warn_of_large_banks(model: DmadModel) -> None:
    """Log a warning if a bank holds more numbers than all that is computed with.

    Args:
        model: A model whose banks are filled.
    """
    weights = sum(value.numel() for value in model.parameters())
    for name, bank in (("normal", model.normal_bank), ("abnormal", model.abnormal_bank)):
        if bank.entries.numel() > weights:
            logger.warning(
                "The %s bank holds %d entries, %.0f MB; backbone and head hold %.0f MB. Every image is compared "
                "with all entries, and every checkpoint and export carries them. Set bank_size to fewer entries "
                "(--model.bank_size N) or lower coreset_ratio.",
                name,
                len(bank),
                bank.entries.numel() * 4 / 1e6,
                weights * 4 / 1e6,
            )


def is_anomalous(batch: ImageBatch) -> torch.Tensor:
    """Tell which images of a training batch show defects.

    Args:
        batch: The batch; without labels, all its images are normal.

    Returns:
        True where an image is anomalous, ``(B,)``.
    """
    if batch.gt_label is None:
        return torch.zeros(len(torch.as_tensor(batch.image)), dtype=torch.bool)
    return batch.gt_label.bool()


def _prepare(
    batch: ImageBatch, model: DmadModel, transform: Callable
) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor]:
    """Images as the model takes them, masks B x height x width, and which images are anomalous."""
    device = _device(model)
    image, mask = transform(batch.image, batch.gt_mask)
    mask = None if mask is None else mask.flatten(0, -3).to(device) > 0
    return image.to(device), mask, is_anomalous(batch).to(device)


def _resized(images: torch.Tensor, model: DmadModel) -> torch.Tensor:
    """Pictures before they are normalised, at the size that the model takes."""
    return resize(images, list(model.anomaly_map_generator.image_size), antialias=False)


def _device(model: DmadModel) -> torch.device:
    return model.normal_bank.entries.device


def _no_mask(batch: ImageBatch, anomalous: torch.Tensor) -> str:
    paths = batch.image_path or []
    named = [path for path, is_anomaly in zip(paths, anomalous.tolist(), strict=False) if is_anomaly]
    example = f" '{named[0]}'" if named else ""
    return (
        f"The anomalous training image{example} has no mask, so its abnormal patches are not known. Give every "
        "anomalous training image a mask, or take it out of the training images."
    )
