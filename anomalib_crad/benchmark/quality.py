# SPDX-License-Identifier: Apache-2.0

"""Train, test and export one model on one dataset, with anomalib's own engine, under the protocol of all models.

The protocol: the same images at the same size, no category label, the weights after the last step, and metrics on raw
scores. A model whose backbone is a timm model, given or by default, gets the normalisation that the backbone was
trained with. Other models keep their own pre-processor, at the common size. Those resize with antialiasing, the former
without: this is the only difference that is left between the images.
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

from anomalib_crad.benchmark.cells import describe_error
from anomalib_crad.benchmark.common_score import CommonScoreEvaluator
from anomalib_crad.benchmark.cost import load_average, peak_memory
from anomalib_crad.models.components.image_size import resize_and_normalise
from anomalib_crad.models.components.lightning_model import FeatureReconstruction
from anomalib_crad.provenance import json_value

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from anomalib.data import ImageBatch
    from anomalib.pre_processing import PreProcessor
    from lightning.pytorch import LightningModule, Trainer

    from anomalib_crad.benchmark.cells import Cell
    from anomalib_crad.metrics.category_report import CategoryReport

logger = logging.getLogger(__name__)

#: Folder of the exports, in the folder of a cell.
EXPORTED = "exported"


def run_quality(cell: Cell, folder: Path) -> dict[str, Any]:
    """Train, test and export.

    Args:
        cell: What to run.
        folder: Folder of the cell, to which the exports go.

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
    engine = _engine(settings, folder / "engine", watch)
    load = load_average()
    engine.fit(model, datamodule=datamodule)
    memory = peak_memory()
    began = time.monotonic()
    # Not with the engine, which would validate first, to find thresholds.
    engine.trainer.test(model, datamodule=datamodule, verbose=False)
    test_seconds = time.monotonic() - began
    evaluator = cast("CommonScoreEvaluator", model.evaluator)
    return json_value({
        "metrics": _report_values(evaluator.report),
        "common_metrics": _report_values(evaluator.common_report),
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


def _engine(settings: dict[str, Any], folder: Path, watch: Callback) -> Engine:
    arguments = {} if settings["max_epochs"] is None else {"max_epochs": settings["max_epochs"]}
    return Engine(
        default_root_dir=folder,
        accelerator=settings["accelerator"],
        devices=1,
        callbacks=[watch],
        logger=False,
        enable_model_summary=False,
        # The benchmark does not compare thresholds, so it skips the pass over the test images that finds them.
        limit_val_batches=0,
        **arguments,
    )


def _report_values(report: CategoryReport | None) -> dict[str, Any] | None:
    return None if report is None else report.to_dict()


class _Training(Callback):
    """Measure how long a training takes, including the filling of a memory bank, and count its images."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self.images = 0
        self.batches = 0
        self._began = 0.0

    def on_fit_start(self, *_args: Any, **_kwargs: Any) -> None:  # noqa: ANN401 - Lightning's
        # Not at the first step: the feature cache is filled before it.
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

    def on_train_end(self, *_args: Any, **_kwargs: Any) -> None:  # noqa: ANN401 - Lightning's
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
    """Refuse a model without a limit to its training, for which Lightning's default of 1000 epochs would hold."""
    limited = {"max_epochs", "max_steps"} & set(model.trainer_arguments)
    untrained = model.learning_type in {LearningType.ZERO_SHOT, LearningType.FEW_SHOT}
    if not (limited or untrained or isinstance(model, FeatureReconstruction)):
        msg = f"{type(model).__name__} sets no limit to its training, which would run 1000 epochs: set max_epochs."
        raise ValueError(msg)


def _check_textures(model: AnomalibModule, name: str) -> None:
    """Refuse a model that paints defects from textures if it has found no textures.

    A failed download of textures leaves an empty folder, with which anomalib would silently train another method.
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
        arguments["crop_size"] = min(size)  # so that the model sees the whole image
    pre_processor = model_class.configure_pre_processor(**arguments)
    _check_image_size(pre_processor, model_class.__name__, size)
    return pre_processor


def _check_image_size(pre_processor: PreProcessor, name: str, size: tuple[int, int]) -> None:
    """Refuse a model that would see a part of each image, or images of another size than the other models."""
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
    """Export for the measurement of cost; a failed export is recorded with its reason and leaves the quality valid."""
    # The cost needs no metrics, and a pickled evaluator would hold the test's predictions.
    model.evaluator = None
    return {
        "PyTorch": _exported(model.to_torch, folder),
        "OpenVINO": _exported(partial(_to_openvino, model, image_size), folder),
    }


def _to_openvino(model: AnomalibModule, image_size: tuple[int, int], folder: Path) -> Path:
    """Export for any number of images if the model's graph allows it, or else for one."""
    import openvino

    path = model.to_openvino(folder, input_size=image_size)
    batch = openvino.Core().read_model(path).input(0).partial_shape[0]
    if batch.is_static and batch.get_length() != 1:
        # Some graphs keep the number of example images with which they were traced.
        path = model.to_openvino(folder, input_size=image_size, onnx_kwargs={"dynamic_shapes": None})
    return path


def _exported(export: Callable[[Path], Path], folder: Path) -> dict[str, str]:
    try:
        path = export(folder)
    except Exception as error:  # any model, any exporter
        logger.exception("Export to %s", folder)
        return {"error": describe_error(error)}
    return {"path": str(path.relative_to(folder.parent))}
