# SPDX-License-Identifier: Apache-2.0

"""Features of the training images, computed once: later epochs decode no image and run no backbone.

The backbone is frozen and nothing is augmented, so an image has the same features in every epoch. They are computed in
a first pass, with the trainer's device and precision, and handed to the model in place of images: in memory where they
fit a budget, else in one memory-mapped file, which all processes of a machine share. Where an image differs from epoch
to epoch, or is read once only, the cache steps aside and says so in the log.

Axis letters: N images, B batch, C channels, H x W positions.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from anomalib.data import AnomalibDataModule, AnomalibDataset
from anomalib.pre_processing import PreProcessor
from lightning.pytorch import Callback
from rich.console import Console
from rich.progress import track
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2

from anomalib_crad.export.checks import fingerprint
from anomalib_crad.models.components.feature_store import FeatureStore, FileStore, MemoryStore

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Sequence

    from anomalib.models.components import AnomalibModule
    from lightning.pytorch import Trainer
    from torch import nn

    from anomalib_crad.models.components.features import MultiScaleFeatures

logger = logging.getLogger(__name__)

GIBIBYTE = 2**30
#: Transforms that give an image the same result each time.
_DETERMINISTIC = (v2.Resize, v2.CenterCrop, v2.Normalize, v2.Grayscale, v2.Pad, v2.ToImage, v2.ToDtype, v2.RGB)


@dataclass
class FeatureBatch:
    """What a training step gets in place of anomalib's batch of images.

    Attributes:
        features: B x C x H x W.
        image: Always ``None``, so that a pre-processor leaves the batch unchanged.
        gt_mask: Always ``None``.
    """

    features: torch.Tensor
    image: None = None
    gt_mask: None = None

    @property
    def batch_size(self) -> int:
        """Number of images (B)."""
        return len(self.features)

    def __len__(self) -> int:
        """Number of images (B)."""
        return len(self.features)

    def to(self, *args: Any, **kwargs: Any) -> FeatureBatch:  # noqa: ANN401  # as torch.Tensor.to
        """Move the features to a device."""
        return FeatureBatch(self.features.to(*args, **kwargs))


class FeatureDataset(Dataset):
    """A dataset that returns features instead of images; all other attributes are those of the wrapped dataset.

    Args:
        images: The dataset of images.
        store: Their features, in the dataset's order.
    """

    def __init__(self, images: AnomalibDataset, store: FeatureStore) -> None:
        self._images = images
        self._store = store

    def __len__(self) -> int:
        """Number of images (N)."""
        return len(self._images)

    def __getitem__(self, index: int) -> FeatureBatch:
        """Features of one image as a batch."""
        return self.__getitems__([index])

    def __getitems__(self, indices: Sequence[int]) -> FeatureBatch:  # noqa: PLW3201  # torch asks for whole batches by it
        """Features of several images."""
        return FeatureBatch(self._store.read(indices))

    @staticmethod
    def collate_fn(batch: FeatureBatch) -> FeatureBatch:
        """Return the batch, which is one already."""
        return batch

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401  # whatever the dataset has
        """Forward to the wrapped dataset; samplers read its ``samples``."""
        if name in {"_images", "_store"}:  # not set yet, in a copy or a pickle
            raise AttributeError(name)
        return getattr(self._images, name)


class FeatureCache(Callback):
    """Compute the features of the training images once.

    Our models add it to a training by themselves (``feature_cache=True``). Give it to the trainer to change a setting::

        anomalib train --model Crad --trainer.callbacks+=anomalib_crad.FeatureCache --trainer.callbacks.folder ./cache

    Args:
        memory_gib (float): Largest size of features that are held in memory, in GiB. Larger ones, and those that
            several processes share, are in a file. Defaults to ``4.0``.
        folder (str | Path | None): Folder for the file, which stays there. A later run on the same images, backbone,
            weights and size uses it again. Defaults to ``None``: a file in the folder of the run, removed in the end.
        half_precision (bool): Store 16-bit numbers: half the size, rounded. Defaults to ``False``.

    Raises:
        ValueError: If ``memory_gib`` is negative.
    """

    def __init__(self, memory_gib: float = 4.0, folder: str | Path | None = None, half_precision: bool = False) -> None:
        if not memory_gib >= 0:
            msg = f"memory_gib must be at least 0, got {memory_gib}."
            raise ValueError(msg)
        self.memory_gib = memory_gib
        self.folder = None if folder is None else Path(folder)
        self.half_precision = half_precision
        self._store: FeatureStore | None = None
        self._datamodule: AnomalibDataModule | None = None

    def on_fit_start(self, trainer: Trainer, pl_module: AnomalibModule) -> None:  # type: ignore[override]
        """Compute the features, unless there is a reason not to, and let the datamodule load them.

        Args:
            trainer: The trainer of the run, set up.
            pl_module: The model, on its device and with its weights.
        """
        self._release()
        reason = reason_against(trainer, pl_module)
        if reason is not None:
            logger.info("Features of training images are not cached: %s.", reason)
            return
        datamodule: AnomalibDataModule = trainer.datamodule  # type: ignore[attr-defined]
        store = self._fill(trainer, pl_module, datamodule.train_data)
        if store is None:
            return
        self._store, self._datamodule = store, datamodule
        load = datamodule.train_dataloader

        def train_dataloader() -> DataLoader:
            with _replaced(datamodule, train_data=FeatureDataset(datamodule.train_data, store), num_workers=0):
                return load()

        datamodule.train_dataloader = train_dataloader  # type: ignore[method-assign]

    def on_fit_end(self, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401, ARG002  # Lightning's
        """Give the datamodule its images back, and forget the features."""
        self._release()

    def on_exception(self, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401, ARG002  # Lightning's
        """Do the same for a training that stops in the middle."""
        self._release()

    def _release(self) -> None:
        if self._datamodule is not None:
            vars(self._datamodule).pop("train_dataloader", None)
        if self._store is not None:
            self._store.close()
        self._store = self._datamodule = None

    def _fill(self, trainer: Trainer, model: AnomalibModule, images: AnomalibDataset) -> FeatureStore | None:
        """Compute the features or find them in a file; ``None`` where there is no room for them."""
        extractor = _extractor(model)
        shape = (len(images), extractor.out_channels, *extractor.feature_size)
        dtype = torch.float16 if self.half_precision else torch.float32
        size = dtype.itemsize * torch.Size(shape).numel()
        store: FeatureStore
        if self.folder is None and trainer.world_size == 1 and size <= self.memory_gib * GIBIBYTE:
            store = MemoryStore(shape, dtype)
        else:
            # anomalib gives each process of a run a folder of its own.
            folder = Path(trainer.strategy.broadcast(str(self.folder or trainer.default_root_dir)))
            key = None if self.folder is None else self._key(trainer, model, images)
            store = FileStore(folder, key, shape, dtype)
        try:
            if not store.open(trainer):
                store.fill(trainer, _features(trainer, model, images, store.rows(trainer)))
        except OSError as error:
            logger.warning("Features of training images are not cached: %s.", error)
            store.close()
            return None
        logger.info("Features of %d images are cached (%.2f GiB, %s).", len(images), size / GIBIBYTE, store)
        return store

    def _key(self, trainer: Trainer, model: AnomalibModule, images: AnomalibDataset) -> str:
        """Fingerprint of everything that the features depend on."""
        extractor = _extractor(model)
        files = [_identity(Path(path)) for path in images.samples.image_path]
        parts = {
            "images": files,
            "augmentations": _description(images.augmentations),
            "transform": _description(getattr(model.pre_processor, "transform", None)),
            "backbone": extractor.backbone_name,
            "options": repr(extractor.options),
            "order": extractor.order,
            "feature_size": extractor.feature_size,
            "weights": fingerprint(extractor),
            "precision": str(trainer.precision),
            "half_precision": self.half_precision,
        }
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def reason_against(trainer: Trainer, model: AnomalibModule) -> str | None:
    """Say why features of a training should not be cached.

    Args:
        trainer: The trainer of the run.
        model: The model.

    Returns:
        The reason as the end of a sentence, or ``None`` if there is none.
    """
    datamodule = getattr(trainer, "datamodule", None)
    images = getattr(datamodule, "train_data", None)
    if not isinstance(datamodule, AnomalibDataModule) or not isinstance(images, AnomalibDataset):
        return "the trainer was given dataloaders instead of a datamodule of anomalib"
    if not getattr(model, "trains_on_features", False):
        return f"{type(model).__name__} learns from more than the features of normal images"
    if datamodule.external_collate_fn is not None:
        return "the datamodule has a collate function of its own"
    for owner, transform in (
        ("train_augmentations", images.augmentations),
        ("the pre-processor", getattr(model.pre_processor, "transform", None)),
    ):
        name = first_random(transform)
        if name is not None:
            return f"{name} of {owner} may change an image from epoch to epoch"
    if _reads_no_image_twice(trainer, datamodule.train_batch_size, len(images)):
        return "this training reads no image twice, or only a part of them"
    return None


def _reads_no_image_twice(trainer: Trainer, batch_size: int, num_images: int) -> bool:
    limit = trainer.limit_train_batches
    # An integer counts batches, so that 1 is a single batch and 1.0 all of them.
    is_limited = isinstance(limit, int) or limit not in {1.0, None}
    batches = trainer.max_steps * trainer.accumulate_grad_batches * trainer.world_size
    few_steps = 0 <= batches * batch_size <= num_images
    return bool(trainer.fast_dev_run) or is_limited or few_steps or trainer.max_epochs == 1  # type: ignore[attr-defined]


def first_random(transform: nn.Module | None) -> str | None:
    """Return the name of the first transform that is not known to give the same result each time.

    Args:
        transform: A transform, one composed of several, or ``None``.
    """
    if transform is None or isinstance(transform, _DETERMINISTIC):
        return None
    if isinstance(transform, v2.Compose):
        return next((name for part in transform.transforms if (name := first_random(part)) is not None), None)
    return type(transform).__name__


@torch.no_grad()
def _features(
    trainer: Trainer, model: AnomalibModule, images: AnomalibDataset, rows: Sequence[int]
) -> Generator[tuple[Sequence[int], torch.Tensor], None, None]:
    """Yield rows of the dataset and their features, B x C x H x W, as a training step computes them."""
    datamodule: AnomalibDataModule = trainer.datamodule  # type: ignore[attr-defined]
    size = datamodule.train_batch_size
    batches = [rows[start : start + size] for start in range(0, len(rows), size)]
    # A generator of its own, so that the random numbers of the training are those of a run without cache.
    loader = DataLoader(
        images,
        batch_sampler=batches,  # type: ignore[arg-type]  # any iterable of rows
        num_workers=datamodule.num_workers,
        collate_fn=images.collate_fn,
        generator=torch.Generator().manual_seed(0),
    )
    shown = trainer.is_global_zero and trainer.progress_bar_callback is not None
    console = Console(stderr=True)
    bars: Callable[..., Any] = track
    for number, batch in enumerate(
        bars(loader, "Caching features", total=len(batches), console=console, transient=True, disable=not shown)
    ):
        placed = trainer.strategy.batch_to_device(batch)
        if isinstance(model.pre_processor, PreProcessor):
            model.pre_processor.on_train_batch_start(trainer, model, placed, number)
        with trainer.precision_plugin.train_step_context():
            features = _extractor(model)(placed.image)
        yield batches[number], features


def _description(transform: nn.Module | None) -> str:
    """A transform in words; one that comes from a checkpoint has other names of the same interpolations."""
    return re.sub(r"InterpolationMode\.(\w+)", lambda name: name[1].lower(), repr(transform))


def _identity(path: Path) -> tuple[str, int, int] | tuple[str]:
    """Path, size and time of a file; the path alone where it cannot be read, which is reported when it is opened."""
    try:
        status = path.stat()
    except OSError:
        return (str(path),)
    return str(path), status.st_size, status.st_mtime_ns


def _extractor(model: AnomalibModule) -> MultiScaleFeatures:
    return cast("MultiScaleFeatures", model.model.feature_extractor)


@contextmanager
def _replaced(owner: object, **values: object) -> Generator[None, None, None]:
    """Give an object other attributes for a while."""
    before = {name: getattr(owner, name) for name in values}
    for name, value in values.items():
        setattr(owner, name, value)
    try:
        yield
    finally:
        for name, value in before.items():
            setattr(owner, name, value)
