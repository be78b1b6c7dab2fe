# SPDX-License-Identifier: Apache-2.0

"""What happens before the first training step: experts are found, and codebooks are filled with tokens.

Codebooks of random numbers, as the authors' release has them, hardly ever come into use: of 512 codes one is left after
300 images and six after 2,400, since a code that the first image does not choose is thrown far away by its first
update. Codebooks that are drawn from the tokens of their expert's images all stay in use, and their error is a tenth to
a third.

Axis letters: B batch, C channels, H x W positions, L tokens of an image, K codes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, TypeAlias, get_args

import torch
from torch import distributed

from anomalib_crad.models.hvq_trans.experts import averaged
from anomalib_crad.models.hvq_trans.torch_model import conditioned

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from anomalib_crad.models.hvq_trans.torch_model import HVQTransModel, HVQTransReconstruction

    #: Gives the features of rows of the training set, in batches B x C x H x W.
    ReadFeatures: TypeAlias = Callable[[Sequence[int]], Iterable[torch.Tensor]]

CodebookStart: TypeAlias = Literal["tokens", "random"]

#: Images from which an expert's codes are drawn at least, so that they show more than one image does.
IMAGES_PER_EXPERT = 16


def check_codebook_start(codebook_start: str) -> None:
    """Check the name of a way to start codebooks.

    Args:
        codebook_start: The name.

    Raises:
        ValueError: If it is unknown.
    """
    if codebook_start not in get_args(CodebookStart):
        msg = f"codebook_start must be one of {', '.join(get_args(CodebookStart))}, got '{codebook_start}'."
        raise ValueError(msg)


@torch.no_grad()
def prepare(
    model: HVQTransModel, num_images: int, read_features: ReadFeatures, codebook_start: CodebookStart, seed: int
) -> None:
    """Find experts and start codebooks; what is there already, as from a checkpoint, stays.

    Features of all training images are read once where there are several experts to find, and a few of each expert once
    more.

    Args:
        model: The model, whose backbone has its weights.
        num_images: Training images.
        read_features: Computes features of some of them by their row, from 0 to ``num_images - 1``, in the given order.
        codebook_start: ``"tokens"`` or ``"random"``.
        seed: Fixes the experts, the images that codes are drawn from, and the codes.
    """
    training = model.training
    model.eval()
    generator = torch.Generator().manual_seed(seed)
    experts = _find_experts(model, num_images, read_features, seed)
    if codebook_start == "tokens":
        _start_codebooks(model, experts, read_features, generator)
    model.train(training)
    if distributed.is_available() and distributed.is_initialized():
        # Augmentations may have shown every process other images.
        for buffer in (*model.experts.buffers(), *model.reconstruction.buffers()):
            distributed.broadcast(buffer, src=0)


def draw_codes(head: HVQTransReconstruction, expert: int, features: torch.Tensor, generator: torch.Generator) -> None:
    """Start an expert's codebooks from tokens of its images.

    The deepest level comes first, since the other levels are quantised together with its codes. Where there are fewer
    tokens than codes, tokens are taken more than once; of equal codes only the first is ever chosen.

    Args:
        head: The head, in evaluation mode.
        expert: Number of the expert.
        features: Features of its images, B x C x H x W.
        generator: Draws the tokens.
    """
    levels = head.levels(features)
    *codebooks, deepest_codebooks = head.codebooks_by_level()
    deepest_codebooks.start(expert, _draw(levels[-1], deepest_codebooks.num_codes, generator))
    experts = torch.full((len(features),), expert, device=features.device)
    deepest = deepest_codebooks(levels[-1], experts).values
    for books, tokens in zip(codebooks, conditioned(levels, deepest), strict=True):
        books.start(expert, _draw(tokens, books.num_codes, generator))


def _find_experts(model: HVQTransModel, num_images: int, read_features: ReadFeatures, seed: int) -> torch.Tensor:
    """Return the expert of each training image, shape ``(N,)``."""
    if model.reconstruction.num_experts == 1:
        model.experts.has_images.fill_(value=True)
        return torch.zeros(num_images, dtype=torch.long)
    batches = read_features(range(num_images))
    averages = torch.cat([averaged(features) for features in batches])
    fitted = bool(model.experts.has_images.any())
    return (model.experts.nearest(averages) if fitted else model.experts.fit(averages, seed)).cpu()


def _start_codebooks(
    model: HVQTransModel, experts: torch.Tensor, read_features: ReadFeatures, generator: torch.Generator
) -> None:
    head = model.reconstruction
    deepest = head.codebooks_by_level()[-1]
    tokens_per_image = head.feature_shape[1] * head.feature_shape[2]
    count = max(IMAGES_PER_EXPERT, -(-deepest.num_codes // tokens_per_image))
    rows = {}
    for expert in torch.nonzero(~deepest.started()).flatten().tolist():
        members = torch.nonzero(experts == expert).flatten()
        if len(members):
            rows[expert] = members[torch.randperm(len(members), generator=generator)[:count]].tolist()
    if not rows:
        return
    batches = read_features([row for members in rows.values() for row in members])
    features = torch.cat(list(batches))
    sizes = [len(members) for members in rows.values()]
    for expert, part in zip(rows, features.split(sizes), strict=True):
        draw_codes(head, expert, part, generator)


def _draw(tokens: torch.Tensor, num_codes: int, generator: torch.Generator) -> torch.Tensor:
    """Draw K of B x L tokens of D numbers; K x D."""
    rows = tokens.flatten(0, 1)
    order = torch.randperm(len(rows), generator=generator)
    return rows[order[torch.arange(num_codes) % len(rows)].to(rows.device)]
