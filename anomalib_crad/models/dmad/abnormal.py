# SPDX-License-Identifier: Apache-2.0

"""What the bank of abnormal patches is made of, with and without annotated defects (DMAD).

With annotated defects: the patches that their masks mark, as many pseudo anomalies around the mean of these, and
textures if there are any. Without: patches of synthetic defects, and textures if there are any; with neither, pseudo
anomalies around the mean of the normal bank. The authors' release cannot train without annotations; how it is done here
is our choice.

Axis letters: B batch, N patches, M entries, D numbers a patch, h x w patches of an image.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from anomalib.data.utils.generators.perlin import PerlinAnomalyGenerator
from torchvision.datasets.folder import IMG_EXTENSIONS

from anomalib_crad.models.dmad.bank import NO_IMAGE, representative
from anomalib_crad.models.dmad.memory import mark_patches

if TYPE_CHECKING:
    from pathlib import Path

NOISE_STD = 0.015
#: Share of the patches of textures and of synthetic defects that the bank takes.
FOREIGN_RATIO = 0.1
#: Pseudo anomalies if there are no others. They lie close together, so more of them add nothing.
PSEUDO_ONLY = 1024


@dataclass(frozen=True)
class AbnormalEntries:
    """Entries of an abnormal bank, and where they come from.

    Attributes:
        entries: M x D.
        images: Number of the image with the defect that each entry is of, ``(M,)``; -1 for pseudo anomalies and
            textures.
        parts: Entries by origin: ``annotated``, ``synthetic``, ``pseudo`` and ``textures``, in this order, those that
            there are.
    """

    entries: torch.Tensor
    images: torch.Tensor
    parts: dict[str, int]


@dataclass
class MarkedPatches:
    """Patches of defects, image by image.

    They are held until the bank is made: memory grows with the number of marked patches.

    Attributes:
        patches: Marked patches of each image, each N x D; none where a mask is empty.
    """

    patches: list[torch.Tensor] = field(default_factory=list)

    @property
    def total(self) -> int:
        """Patches of all images."""
        return sum(map(len, self.patches))

    def add(self, patches: torch.Tensor, masks: torch.Tensor, grid: tuple[int, int]) -> None:
        """Keep the patches that masks mark.

        Args:
            patches: All patches of the images, B x (h * w) x D.
            masks: Where the defects are, B x height x width.
            grid: Height and width in patches (h, w).
        """
        marked = mark_patches(masks, grid).flatten(1).to(patches.device)
        self.patches.extend(own[chosen] for own, chosen in zip(patches, marked, strict=True))

    def flatten(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Join the images.

        Returns:
            Patches, N x D, and the number of the image of each, ``(N,)``.
        """
        counts = torch.tensor([len(own) for own in self.patches])
        images = torch.arange(len(counts)).repeat_interleave(counts)
        patches = torch.cat(self.patches)
        return patches, images.to(patches.device)


def entries_with_annotations(
    annotated: MarkedPatches,
    textures: torch.Tensor | None = None,
    max_entries: int | None = None,
) -> AbnormalEntries:
    """Make an abnormal bank of annotated defects.

    Args:
        annotated: Patches of the annotated defects, at least one.
        textures: Patches chosen of other textures, N x D. Defaults to ``None``: there are none.
        max_entries: Largest number of entries; annotated patches take at most half of them.
            Defaults to ``None``: no limit.

    Returns:
        Annotated patches, as many pseudo anomalies around their mean, and the textures.
    """
    patches, images = annotated.flatten()
    # As many pseudo anomalies follow, and one entry is better than none.
    limit = len(patches) if max_entries is None else max(max_entries // 2, 1)
    chosen = representative(patches, min(limit, len(patches)))
    patches, images = patches[chosen], images[chosen]
    room = None if max_entries is None else max_entries - len(patches)
    pseudo = pseudo_anomalies(patches, len(patches) if room is None else min(len(patches), room))
    room = None if room is None else room - len(pseudo)
    return _join({"annotated": patches, "pseudo": pseudo, "textures": _at_most(textures, room)}, images)


def entries_without_annotations(
    normal_bank: torch.Tensor,
    synthetic: MarkedPatches | None = None,
    textures: torch.Tensor | None = None,
    max_entries: int | None = None,
) -> AbnormalEntries:
    """Make an abnormal bank without any anomaly.

    Args:
        normal_bank: Entries of the normal bank, M x D.
        synthetic: Patches of synthetic defects. Defaults to ``None``: there are none.
        textures: Patches chosen of other textures, N x D. Defaults to ``None``: there are none.
        max_entries: Largest number of entries; with textures, synthetic defects take at most half of them.
            Defaults to ``None``: no limit.

    Returns:
        A tenth of the synthetic patches, and the textures; with neither, pseudo anomalies around the mean of the normal
        bank.
    """
    if synthetic is None or not synthetic.total:
        pseudo = None
        if textures is None:
            pseudo = pseudo_anomalies(normal_bank, min(PSEUDO_ONLY, max_entries or PSEUDO_ONLY))
        return _join({"pseudo": pseudo, "textures": _at_most(textures, max_entries)})
    patches, images = synthetic.flatten()
    count = max(int(FOREIGN_RATIO * len(patches)), 1)
    if max_entries is not None:
        count = min(count, max_entries if textures is None else max(max_entries // 2, 1))
    chosen = representative(patches, count)
    room = None if max_entries is None else max_entries - len(chosen)
    return _join({"synthetic": patches[chosen], "textures": _at_most(textures, room)}, images[chosen])


def pseudo_anomalies(patches: torch.Tensor, count: int, std: float = NOISE_STD) -> torch.Tensor:
    """Draw patches around the mean of others.

    Args:
        patches: N x D.
        count: Patches to draw.
        std: Standard deviation of the noise in every number. Defaults to ``0.015``.

    Returns:
        ``count`` x D.
    """
    mean = patches.mean(dim=0)
    return mean + std * torch.randn(count, len(mean)).to(mean)


def synthetic_defects(images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Put a synthetic defect into each image: anomalib's Perlin noise, blended in, from no source of textures.

    Args:
        images: Images that are not normalised yet, B x 3 x height x width in [0, 1].

    Returns:
        Images with defects, of the same shape, and their masks, B x height x width, true where a defect is.
    """
    defective, masks = PerlinAnomalyGenerator(probability=1.0)(images)
    return defective, masks.squeeze(1) > 0


def texture_files(folder: Path) -> list[Path]:
    """Choose pictures of textures: one at random of each folder in a folder, or all if it has no folders.

    Args:
        folder: Folder of pictures, or of folders of pictures, as the Describable Textures Dataset has.

    Returns:
        Their paths, at least one.

    Raises:
        FileNotFoundError: If the folder does not exist or has no pictures.
    """
    if not folder.is_dir():
        msg = f"textures='{folder}' is not a folder. Give a folder of pictures of textures, or leave textures out."
        raise FileNotFoundError(msg)
    classes = [pictures for child in sorted(folder.iterdir()) if child.is_dir() and (pictures := _pictures(child))]
    chosen = [pictures[int(torch.randint(len(pictures), ()))] for pictures in classes] or _pictures(folder)
    if not chosen:
        msg = f"textures='{folder}' has no pictures ({', '.join(IMG_EXTENSIONS)}), neither itself nor in its folders."
        raise FileNotFoundError(msg)
    return chosen


def _pictures(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.suffix.lower() in IMG_EXTENSIONS)


def _at_most(patches: torch.Tensor | None, room: int | None) -> torch.Tensor | None:
    if patches is None or room is None:
        return patches
    return patches[representative(patches, room)]


def _join(parts: dict[str, torch.Tensor | None], images: torch.Tensor | None = None) -> AbnormalEntries:
    """Put parts one after the other; ``images`` are those of the first entries."""
    present = {name: part for name, part in parts.items() if part is not None and len(part)}
    entries = torch.cat(list(present.values()))
    numbers = torch.full((len(entries),), NO_IMAGE, device=entries.device)
    if images is not None:
        numbers[: len(images)] = images
    return AbnormalEntries(entries, numbers, {name: len(part) for name, part in present.items()})
