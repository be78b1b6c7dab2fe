# SPDX-License-Identifier: Apache-2.0

"""What makes an evaluation by several processes equal one by a single process.

Each process tests its share of the images. A distributed sampler repeats images so that all processes get equally many;
``SampleOrder`` recognises the repetitions. The functions below exchange records, counts and results. Without a process
group they return what they are given. Every process must call them, also one that has no image.
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

    from anomalib_crad.recording.records import ImageRecord

T = TypeVar("T")


class SampleOrder:
    """Follow which images of its dataset a dataloader yields.

    Args:
        dataloader: A dataloader, or anything else that yields batches.

    Attributes:
        complete (bool): Whether it yields each image of its dataset exactly once.
    """

    def __init__(self, dataloader: object) -> None:
        # With a custom batch sampler the dataloader's own sampler is a placeholder.
        batch_sampler = getattr(dataloader, "batch_sampler", None)
        sampler = getattr(batch_sampler, "sampler", None) or getattr(dataloader, "sampler", None)
        self._distributed = sampler if isinstance(sampler, DistributedSampler) else None
        self._yielded = 0
        self.complete = isinstance(sampler, SequentialSampler)

    def first_time(self, count: int) -> list[bool]:
        """Tell which images of the next batch are not repetitions.

        A ``DistributedSampler`` gives image i to process i modulo the number of processes and starts again with the
        first images when the dataset runs out.

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


def gather_everywhere(value: T) -> list[T]:
    """Give every process the values of all.

    Args:
        value: The value of this process.

    Returns:
        One value per process, in the order of their ranks.
    """
    if not several_processes():
        return [value]
    values: list[T] = [value] * distributed.get_world_size()
    distributed.all_gather_object(values, value)
    return values


def gather_categories(images: dict[str, list[ImageRecord]]) -> Iterator[tuple[str, list[ImageRecord]]]:
    """Gather the records of all processes on the first one, one category at a time, which bounds its memory.

    Args:
        images: This process's records by category; each category is removed from it when its turn comes.

    Yields:
        On the first process each category with the records of all processes, sorted by name; on the others nothing.
        Every process must exhaust the iterator.
    """
    if not several_processes():
        for category in sorted(images):
            yield category, images.pop(category)
        return
    first = distributed.get_rank() == 0
    for category in sorted(set().union(*gather_everywhere(set(images)))):
        parts: list[list[ImageRecord]] | None = [[] for _ in range(distributed.get_world_size())] if first else None
        distributed.gather_object(images.pop(category, []), parts, dst=0)
        if parts is not None:
            yield category, [image for part in parts for image in part]


def from_first_process(value: T) -> T:
    """Send a value from the first process to all.

    Args:
        value: The value; other processes may give anything.

    Returns:
        The value of the first process.
    """
    if not several_processes():
        return value
    box = [value]
    distributed.broadcast_object_list(box, src=0)
    return box[0]


def join_updates(metrics: Iterable[F1Score]) -> None:
    """Make every process take part in computing a metric that any of them has updated.

    anomalib's metric returns early in a process that never updated it (no image, or none with a mask), and the others
    would wait for that process for ever. An empty update makes it take part and changes no count.

    Args:
        metrics: anomalib's metrics, the same in all processes.
    """
    if not several_processes():
        return
    for metric in metrics:
        if any(gather_everywhere(metric.update_called)) and not metric.update_called:
            nothing = torch.zeros(1, 0, dtype=torch.bool, device=metric.device)  # one image of no pixels
            batch: Any = SimpleNamespace(**dict.fromkeys(metric.fields, nothing))
            metric.update(batch)
