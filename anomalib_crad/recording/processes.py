# SPDX-License-Identifier: Apache-2.0

"""What an evaluation by several processes needs to equal one by a single process.

Each process tests its share of the images. Here are the three places where the shares meet: images that a sampler
repeats so that all processes get equally many are told apart, records are gathered category by category on the first
process, and what it found is sent to all. Without process group all of it does nothing. Every function that gathers
must be called by every process, also by one that has no image.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import distributed
from torch.utils.data import DistributedSampler, SequentialSampler

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from anomalib.metrics import F1Score

    from anomalib_crad.metrics.category import ImageRecord

T = TypeVar("T")


class SampleOrder:
    """Follow which images of its dataset a dataloader yields.

    Args:
        dataloader: A dataloader, or anything else that yields batches.

    Attributes:
        complete (bool): Whether it yields each image of its dataset exactly once.
    """

    def __init__(self, dataloader: object) -> None:
        # A batch sampler of one's own holds the sampler that counts; the dataloader's is a stand-in then.
        batch_sampler = getattr(dataloader, "batch_sampler", None)
        sampler = getattr(batch_sampler, "sampler", None) or getattr(dataloader, "sampler", None)
        self._distributed = sampler if isinstance(sampler, DistributedSampler) else None
        self._yielded = 0
        self.complete = isinstance(sampler, SequentialSampler)

    def first_time(self, count: int) -> list[bool]:
        """Tell which images of the next batch are not repetitions.

        A ``DistributedSampler`` deals the dataset out like cards and goes on with the first images when they run out.

        Args:
            count: Images in the batch.

        Returns:
            One value an image, false where another process has tested the image already.
        """
        start, self._yielded = self._yielded, self._yielded + count
        sampler = self._distributed
        if sampler is None:
            return [True] * count
        dealt = (position * sampler.num_replicas + sampler.rank for position in range(start, start + count))
        return [position < len(sampler.dataset) for position in dealt]  # type: ignore[arg-type] # a sampler needs sizes


def several_processes() -> bool:
    """Tell whether this is one of several processes that test together."""
    return distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1


def gather_categories(images: dict[str, list[ImageRecord]]) -> Iterator[tuple[str, list[ImageRecord]]]:
    """Gather the records of all processes on the first one, so that it never holds more than one category of others.

    Args:
        images: This process's records by category, which are taken out of it one category after the other.

    Yields:
        On the first process each category with the records of all processes, sorted by name; on the others nothing.
        All of them must be run through to the end.
    """
    if not several_processes():
        for category in sorted(images):
            yield category, images.pop(category)
        return
    first = distributed.get_rank() == 0
    for category in sorted(set().union(*_gather_everywhere(set(images)))):
        parts: list[list[ImageRecord]] | None = [[] for _ in range(distributed.get_world_size())] if first else None
        distributed.gather_object(images.pop(category, []), parts, dst=0)
        if parts is not None:
            yield category, [image for part in parts for image in part]


def from_first_process(value: T) -> T:
    """Send a value of the first process to all.

    Args:
        value: The value; those of other processes do not matter.

    Returns:
        The value of the first process.
    """
    if not several_processes():
        return value
    box = [value]
    distributed.broadcast_object_list(box, src=0)
    return box[0]


def join_updates(metrics: Iterable[F1Score]) -> None:
    """Let every process take part in computing a metric that any of them has updated.

    anomalib's metric returns early in a process that never updated it (no image, or none with a mask), while the others
    wait for its part for ever. An update with nothing makes it take part and changes no count.

    Args:
        metrics: anomalib's metrics, the same in all processes.
    """
    if not several_processes():
        return
    for metric in metrics:
        if any(_gather_everywhere(metric.update_called)) and not metric.update_called:
            nothing = torch.zeros(1, 0, dtype=torch.bool, device=metric.device)  # one image of no pixels
            batch: Any = SimpleNamespace(**dict.fromkeys(metric.fields, nothing))
            metric.update(batch)


def _gather_everywhere(value: T) -> list[T]:
    """Return the values of all processes."""
    values: list[T] = [value] * distributed.get_world_size()
    distributed.all_gather_object(values, value)
    return values
