# SPDX-License-Identifier: Apache-2.0

"""Find the mask of each anomalous image of a ``Folder`` by name.

anomalib pairs images and masks by their position in sorted lists. This fails where a mask is missing or has no image,
and where sorting differs: ``10.png`` comes after ``1.png``, but ``10_mask.png`` before ``1_mask.png``. Where anomalib
would find pairs, these are kept; elsewhere names decide.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from typing import TYPE_CHECKING

from torchvision.datasets.folder import IMG_EXTENSIONS

from anomalib_crad.data.image_files import listed

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

logger = logging.getLogger(__name__)


def mask_files(folders: Iterable[Path], extensions: Sequence[str] | None = None) -> list[Path]:
    """List the masks in folders and their subfolders.

    Args:
        folders: The folders.
        extensions: Endings of masks, with the dot. Defaults to ``None``: those of torchvision's images.

    Returns:
        Paths, sorted.

    Raises:
        FileNotFoundError: If a folder holds no masks.
    """
    endings = tuple(ending.lower() for ending in extensions or IMG_EXTENSIONS)
    masks: list[Path] = []
    for folder in folders:
        found = [path for path in folder.rglob("*") if path.suffix.lower() in endings and path.is_file()]
        if not found:
            msg = f"There are no masks in '{folder}' (`mask_dir`). Correct it, or leave it out."
            raise FileNotFoundError(msg)
        masks.extend(found)
    return sorted(masks)


def pair_masks(images: Iterable[Path], masks: Sequence[Path]) -> dict[Path, list[Path]]:
    """Find the masks of anomalous images.

    A mask belongs to an image if it has the same name without the ending, or that name with a prefix or suffix set off
    by a character that is neither letter nor digit (``000_mask``). Where images in several folders have the name, the
    mask belongs to the one whose folders are named most like its own.

    Args:
        images: The images.
        masks: The masks, sorted.

    Returns:
        The masks of each image that has any. Masks without an image are logged.

    Raises:
        ValueError: If there are images and masks, but no mask has an image.
    """
    images = sorted(images)
    if len(images) == len(masks) and all(image.stem in mask.stem for image, mask in zip(images, masks, strict=True)):
        return {image: [mask] for image, mask in zip(images, masks, strict=True)}
    found: dict[Path, list[Path]] = defaultdict(list)
    for mask in masks:
        image = _image_of(mask, images)
        if image is not None:
            found[image].append(mask)
    if images and masks and not found:
        msg = f"No mask is named like an image: '{masks[0]}' and '{images[0]}', for example. Name each like its image."
        raise ValueError(msg)
    paired = {mask for each in found.values() for mask in each}
    alone = [f"'{mask}'" for mask in masks if mask not in paired]
    if alone:
        logger.warning("%d masks have no image and are not used: %s", len(alone), listed(alone))
    # A mask that has exactly the image's name is the mask; others are further files about the image.
    return {image: [mask for mask in each if mask.stem == image.stem] or each for image, each in found.items()}


def _image_of(mask: Path, images: Sequence[Path]) -> Path | None:
    named_alike = [image for image in images if _are_named_alike(image.stem, mask.stem)]
    longest = max((len(image.stem) for image in named_alike), default=0)
    candidates = [image for image in named_alike if len(image.stem) == longest]
    shared = {image: _shared_folders(image, mask) for image in candidates}
    best = [image for image in candidates if shared[image] == max(shared.values())]
    return best[0] if len(best) == 1 else None


def _are_named_alike(image: str, mask: str) -> bool:
    if image == mask:
        return True
    suffixed = mask.startswith(image) and not mask[len(image)].isalnum()
    prefixed = mask.endswith(image) and not mask[-len(image) - 1].isalnum()
    return suffixed or prefixed


def _shared_folders(first: Path, second: Path) -> int:
    """Count the names of folders that two paths share, from the file upwards."""
    count = 0
    for one, other in zip(reversed(first.parent.parts), reversed(second.parent.parts), strict=False):
        if one != other:
            break
        count += 1
    return count
