# SPDX-License-Identifier: Apache-2.0

"""Train, test and export one model on one dataset, with anomalib's own engine, by the protocol of all.

The protocol: the same images at the same size, no class label, the weights after the last step, and metrics on raw
scores. A model whose backbone timm knows, given or its own default, gets the normalisation that the backbone was
trained with. Any other keeps its own pre-processor, at the common size; anomalib's resize with antialiasing, which is
what still differs between the images of these models and of the others.
"""

from __future__ import annotations

import difflib
import inspect
import logging
import time
from functools import partial
from typing import TYPE_CHECKING, Any, cast

import anomalib.models
import timm
import torch
from anomalib import LearningType
from anomalib.data import AnomalibDataModule, get_datamodule
from anomalib.data.utils.generators.perlin import PerlinAnomalyGenerator
from anomalib.engine import Engine
from anomalib.models.components import AnomalibModule
from lightning.fabric.utilities.seed import seed_everything
from lightning.pytorch import Callback
from timm.models import PretrainedCfg

from anomalib_crad.benchmark.common_score import CommonScoreEvaluator
from anomalib_crad.benchmark.machine import describe_error, load_average, peak_memory
from anomalib_crad.models.components.image_size import resize_and_normalise
from anomalib_crad.models.components.lightning_model import FeatureReconstruction
from anomalib_crad.provenance import plain

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from anomalib.data import ImageBatch
    from anomalib.pre_processing import PreProcessor
    from lightning.pytorch import LightningModule, Trainer

    from anomalib_crad.benchmark.cells import Cell
    from anomalib_crad.metrics.report import CategoryReport

logger = logging.getLogger(__name__)

#: Where the exports of a cell are, in its folder.
EXPORTED = "exported"


def run_quality(cell: Cell, folder: Path) -> dict[str, Any]:
    """Train, test and export.

    Args:
        cell: What to run.
        folder: Folder of the cell, for exports.

    Returns:
        Metrics, times and memory, as plain data.
    """
    settings = cell.settings
    seed_everything(cell.seed, workers=True, verbose=False)
    datamodule = _datamodule(cell)
    model = _model(settings, cell.seed)
    if settings["max_epochs"] is None:
        _check_own_limit(model)
    watch = _Training()
    arguments = {} if settings["max_epochs"] is None else {"max_epochs": settings["max_epochs"]}
    engine = Engine(
        default_root_dir=folder / "engine",
        accelerator=settings["accelerator"],
        devices=1,
        callbacks=[watch],
        logger=False,
        enable_model_summary=False,
        # Thresholds are not compared; the pass over the test images that finds them is saved.
        limit_val_batches=0,
        **arguments,
    )
    load = load_average()
    engine.fit(model, datamodule=datamodule)
    memory = peak_memory()
    began = time.monotonic()
    # Not by the engine, which would validate first, to find thresholds.
    engine.trainer.test(model, datamodule=datamodule, verbose=False)
    test_seconds = time.monotonic() - began
    evaluator = cast("CommonScoreEvaluator", model.evaluator)
    return plain({
        "metrics": _plain_report(evaluator.report),
        "common_metrics": _plain_report(evaluator.common_report),
        "training": {
            "seconds": watch.seconds,
            "images": watch.images,
            "images_per_second": watch.images / watch.seconds if watch.seconds else None,
            "epochs": engine.trainer.current_epoch,
            "steps": watch.batches,
            "training_images": len(datamodule.train_data),
            "peak_memory_bytes": memory,
            "load_average_before": load,
        },
        "test": {"seconds": test_seconds, "images": len(datamodule.test_data)},
        "exports": _export(model.cpu(), folder / EXPORTED, tuple(settings["image_size"])),
    })


def _plain_report(report: CategoryReport | None) -> dict[str, Any] | None:
    return None if report is None else report.to_dict()


class _Training(Callback):
    """How long a training takes and how many images it sees; a memory bank is filled within it."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self.images = 0
        self.batches = 0
        self._began = 0.0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        del trainer, pl_module
        self._began = time.monotonic()

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: object,
        batch: ImageBatch,
        batch_idx: int,
    ) -> None:
        del trainer, pl_module, outputs, batch_idx
        self.images += len(batch)
        self.batches += 1

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        del trainer, pl_module
        self.seconds = time.monotonic() - self._began


def _datamodule(cell: Cell) -> AnomalibDataModule:
    dataset = cell.settings["dataset"]
    arguments = dict(dataset["init_args"])
    if cell.settings["train_batch_size"] is not None:
        arguments["train_batch_size"] = cell.settings["train_batch_size"]
    if cell.categories is not None:
        arguments["category"] = arguments["category"][: cell.categories]
    return get_datamodule({"data": {"class_path": dataset["class_path"], "init_args": arguments}})


def _model(settings: dict[str, Any], seed: int) -> AnomalibModule:
    name, arguments = settings["class_path"], dict(settings["init_args"])
    model_class = getattr(anomalib.models, name, None)
    if not isinstance(model_class, type) or not issubclass(model_class, AnomalibModule):
        near = difflib.get_close_matches(name, anomalib.models.__all__, n=3)
        msg = f"'{name}' is no model of anomalib's{' or ours; near: ' + ', '.join(near) if near else ' or ours'}."
        raise ValueError(msg)  # noqa: TRY004  # a wrong name, not a wrong type
    if "seed" in inspect.signature(model_class).parameters:
        arguments["seed"] = seed
    arguments["pre_processor"] = _pre_processor(model_class, settings)
    model = model_class(**arguments, evaluator=CommonScoreEvaluator(settings["score_window"]), visualizer=False)
    _check_textures(model, name)
    return model


def _check_own_limit(model: AnomalibModule) -> None:
    """Refuse a model that would train as long as Lightning does where nobody says how long."""
    limited = {"max_epochs", "max_steps"} & set(model.trainer_arguments)
    untrained = model.learning_type in {LearningType.ZERO_SHOT, LearningType.FEW_SHOT}
    if not (limited or untrained or isinstance(model, FeatureReconstruction)):
        msg = f"{type(model).__name__} sets no limit to its training, which would run 1000 epochs: set max_epochs."
        raise ValueError(msg)


def _check_textures(model: AnomalibModule, name: str) -> None:
    """Refuse a model that paints defects from textures and found none.

    A download of textures that failed leaves an empty folder, with which anomalib trains another method from then on.
    """
    augmenter = getattr(model, "augmenter", None)
    if isinstance(augmenter, PerlinAnomalyGenerator) and not augmenter.anomaly_source_paths:
        msg = (
            f"{name} paints defects from textures and its dtd_dir (./datasets/dtd, if init_args do not set it) holds "
            "none, as a download that failed leaves it. Delete that folder, to have it downloaded, or fill it."
        )
        raise ValueError(msg)


def _pre_processor(model_class: type[AnomalibModule], settings: dict[str, Any]) -> PreProcessor:
    default = inspect.signature(model_class).parameters.get("backbone")
    backbone = settings["init_args"].get("backbone", default and default.default)
    size = (settings["image_size"][0], settings["image_size"][1])
    if isinstance(backbone, str) and timm.is_model(backbone):
        config = timm.get_pretrained_cfg(backbone) or PretrainedCfg()
        return resize_and_normalise(size, config.mean, config.std)
    arguments: dict[str, Any] = {"image_size": size}
    if "crop_size" in inspect.signature(model_class.configure_pre_processor).parameters:
        arguments["crop_size"] = min(size)  # all models see the whole image, or are refused
    pre_processor = model_class.configure_pre_processor(**arguments)
    _check_image_size(pre_processor, model_class.__name__, size)
    return pre_processor


def _check_image_size(pre_processor: PreProcessor, name: str, size: tuple[int, int]) -> None:
    """Refuse a model that would see other images than the others: a part of them, or of a size of its own."""
    probe = torch.zeros(1, 3, size[0] + 1, size[1] + 1)
    seen = tuple((probe if pre_processor.transform is None else pre_processor.transform(probe)).shape[-2:])
    if seen != size:
        does = "does not resize them" if seen == tuple(probe.shape[-2:]) else f"makes them {seen[0]} x {seen[1]}"
        msg = (
            f"{name} cannot see images of {size[0]} x {size[1]} (image_size): its pre-processor {does}. Leave the "
            "model out, or make image_size what it sees."
        )
        raise ValueError(msg)


def _export(model: AnomalibModule, folder: Path, image_size: tuple[int, int]) -> dict[str, dict[str, str]]:
    """Export for the measurement of cost; what cannot be exported says why, and its quality stands."""
    # A measured model needs no metrics, and a pickle of them would hold the test's predictions.
    model.evaluator = None
    return {
        "PyTorch": _exported(model.to_torch, folder),
        "OpenVINO": _exported(partial(_to_openvino, model, image_size), folder),
    }


def _to_openvino(model: AnomalibModule, image_size: tuple[int, int], folder: Path) -> Path:
    """Export, for any number of images where the model's graph allows it, or else for one."""
    import openvino

    path = model.to_openvino(folder, input_size=image_size)
    batch = openvino.Core().read_model(path).input(0).partial_shape[0]
    if batch.is_static and batch.get_length() != 1:
        # Some graphs keep the number of example images that they were traced with.
        path = model.to_openvino(folder, input_size=image_size, onnx_kwargs={"dynamic_shapes": None})
    return path


def _exported(export: Callable[[Path], Path], folder: Path) -> dict[str, str]:
    try:
        path = export(folder)
    except Exception as error:  # any model, any exporter
        logger.exception("Export to %s", folder)
        return {"error": describe_error(error)}
    return {"path": str(path.relative_to(folder.parent))}
