# SPDX-License-Identifier: Apache-2.0

"""What an export of a trained model costs in accuracy: in each format, with 8 bits, and with 8 bits in one part alone.

Scores and maps are raw, and the checkpoint is measured through anomalib's engine, on the test set of a folder in MVTec
AD's layout. Run it with ``python tests/benchmarks/exported_accuracy.py --ckpt_path X --root DATA``, of UniAD with
``--model UniAD``.
"""

from __future__ import annotations

import argparse
import csv
import logging
import tempfile
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import nncf
import numpy as np
import onnxruntime
import openvino
import torch
from anomalib.deploy import CompressionType
from rich.console import Console
from torchvision.transforms.v2 import InterpolationMode, functional
from torchvision.tv_tensors import Mask

from anomalib_crad import Crad, MVTec, UniAD
from anomalib_crad.export.checks import scores_left_raw
from anomalib_crad.export.cleanup import is_any_of, module_of
from anomalib_crad.export.quantization import CALIBRATION_IMAGES, GraphImages
from anomalib_crad.metrics import ImageAUROC, PixelAUROC
from anomalib_crad.metrics.evaluation import Evaluation
from anomalib_crad.prediction import predict
from anomalib_crad.recording import ImageRecord

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from anomalib.data import ImageItem

    #: Takes an image with its path and returns score and map, H x W.
    Predict = Callable[[ImageItem, np.ndarray], tuple[float, np.ndarray]]
    Parts = Mapping[str, Sequence[str]]

HEAD = "model.reconstruction"
MODELS: dict[str, type[Crad | UniAD]] = {"Crad": Crad, "UniAD": UniAD}
#: Parts of each model by patterns of modules; an operation belongs to the first part that matches.
PARTS = {
    "Crad": {
        "backbone": ["model.feature_extractor*"],
        "coordinates": [f"{HEAD}.*_memory.coordinates*"],
        "grids": [f"{HEAD}.*_memory*"],
        "last convolution": [f"{HEAD}.fusion.recover"],
        "fusion blocks": [f"{HEAD}.fusion*"],
        "refinement and map": [HEAD, "model.anomaly_map_generator", "post_processor"],
    },
    "UniAD": {
        "backbone": ["model.feature_extractor*"],
        "input projection": [f"{HEAD}.input_projection"],
        "output projection": [f"{HEAD}.output_projection"],
        "attention products": [f"{HEAD}.*_attention", f"{HEAD}.*.attention"],
        "attention projections": [f"{HEAD}.*_attention.*", f"{HEAD}.*.attention.*"],
        "feed-forward networks": [f"{HEAD}.*.feed_forward.*"],
        "other parts of the transformer": [f"{HEAD}.*coder*", f"{HEAD}.position"],
        "map": [HEAD, "model.anomaly_map_generator", "post_processor"],
    },
}
METRICS = ("image_AUROC", "pixel_AUROC")
COLUMNS = (
    "model",
    *METRICS,
    "image_points",
    "pixel_points",
    "score_median_change",
    "score_largest_change",
    "scores_within_0.01",
    "map_largest_change",
)
EXACT = {"INFERENCE_PRECISION_HINT": "f32"}  # by default OpenVINO uses bfloat16 on processors that have it


@dataclass(frozen=True)
class Measured:
    """Results of one model on the test set.

    Attributes:
        mean: Metrics, as means over the categories.
        scores: Raw image scores.
        maps: Raw maps, images x H x W.
    """

    mean: dict[str, float]
    scores: np.ndarray
    maps: np.ndarray


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print.

    Args:
        arguments: Command-line arguments. Defaults to ``None``: those of the process.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--ckpt_path", required=True, help="checkpoint of a training")
    parser.add_argument("--model", choices=list(MODELS), default="Crad", help="what was trained")
    parser.add_argument("--root", required=True, help="folder of categories in MVTec AD's layout")
    parser.add_argument("--categories", nargs="+", default=["bottle", "juice_bottle", "ksdd", "tire"])
    parser.add_argument("--images", type=int, default=CALIBRATION_IMAGES, help="training images to quantise with")
    parser.add_argument("--only", nargs="+", help="names of the models to measure, besides the checkpoint")
    parser.add_argument("--output", type=Path, help="CSV file of all figures")
    options = parser.parse_args(arguments)

    warnings.simplefilter("ignore")
    logging.disable(logging.INFO)
    nncf.set_log_level(logging.ERROR)
    datamodule = MVTec(root=options.root, category=options.categories, num_workers=0)
    trained = MODELS[options.model].load_from_checkpoint(options.ckpt_path, map_location="cpu")
    console = Console()
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        with scores_left_raw(trained.post_processor, raw=True):
            predict_row = checkpoint_model(trained, datamodule)
        test_set = GraphImages(datamodule.test_data)
        reference = measure(predict_row, test_set)
        rows.append({"model": "checkpoint", **compare(reference, reference)})
        console.print(rows[-1], soft_wrap=True)
        images = list(GraphImages(datamodule.train_data, limit=options.images))
        for name, make in models(trained, datamodule, Path(folder), images):
            if options.only and name not in options.only:
                continue
            rows.append({"model": name, **compare(measure(make(), test_set), reference)})
            console.print(rows[-1], soft_wrap=True)
    if options.output:
        with options.output.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, COLUMNS)
            writer.writeheader()
            writer.writerows(rows)


def checkpoint_model(trained: Crad | UniAD, datamodule: MVTec) -> Predict:
    """Predict the test set through anomalib's engine.

    Args:
        trained: The model, which leaves scores raw.
        datamodule: The data.

    Returns:
        A function that looks an image's prediction up by its path.
    """
    found = {Path(p.image_path).resolve(): p for p in predict(trained, datamodule, None, accelerator="cpu")}

    def of_item(item: ImageItem, image: np.ndarray) -> tuple[float, np.ndarray]:
        del image
        prediction = found[Path(str(item.image_path)).resolve()]
        return prediction.score, prediction.anomaly_map

    return of_item


def models(
    trained: Crad | UniAD, datamodule: MVTec, folder: Path, images: Sequence[np.ndarray]
) -> Iterator[tuple[str, Callable[[], Predict]]]:
    """List the models to measure.

    Args:
        trained: The model of the checkpoint.
        datamodule: Images for anomalib's compressions.
        folder: Where exported files go.
        images: Inputs to find the ranges of values with.

    Yields:
        A name, and a function that makes the model.
    """
    path = trained.to_openvino(folder, raw_scores=True)

    def changed(change: Callable[[openvino.Model], openvino.Model]) -> Callable[[], Predict]:
        return lambda: openvino_model(change(openvino.Core().read_model(path)))

    yield "OpenVINO FP32", changed(lambda model: model)
    yield "ONNX Runtime FP32", lambda: onnx_model(trained.to_onnx(folder, raw_scores=True))
    for compression in CompressionType:

        def compressed(compression: CompressionType = compression) -> Predict:
            options: dict[str, Any] = {"compression_type": compression, "datamodule": datamodule, "raw_scores": True}
            return openvino_model(trained.to_openvino(folder, compression.value, **options))

        yield compression.name, compressed
    yield "8 bits everywhere, as anomalib", changed(lambda model: nncf.quantize(model, nncf.Dataset(images)))
    parts = PARTS[type(trained).__name__]
    for part in parts:
        yield f"8 bits in {part} alone", changed(lambda model, part=part: _quantize_part(model, images, parts, part))  # type: ignore[misc]


def openvino_model(model: openvino.Model | Path) -> Predict:
    """Run a model in OpenVINO.

    Args:
        model: The model or its file.
    """
    compiled = openvino.Core().compile_model(model, "CPU", EXACT)

    def run(item: ImageItem, image: np.ndarray) -> tuple[float, np.ndarray]:
        del item
        outputs = compiled(image)
        return outputs["pred_score"].item(), outputs["anomaly_map"].squeeze().copy()

    return run


def onnx_model(path: Path) -> Predict:
    """Run a model in ONNX Runtime.

    Args:
        path: The file.
    """
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])

    def run(item: ImageItem, image: np.ndarray) -> tuple[float, np.ndarray]:
        del item
        score, anomaly_map = session.run(["pred_score", "anomaly_map"], {"input": image})
        return score.item(), anomaly_map.squeeze()

    return run


def _quantize_part(model: openvino.Model, images: Sequence[np.ndarray], parts: Parts, part: str) -> openvino.Model:
    names = [op.get_friendly_name() for op in model.get_ordered_ops() if op.get_type_name() != "Constant"]
    return nncf.quantize(
        model,
        nncf.Dataset(images),
        preset=nncf.QuantizationPreset.MIXED,
        subset_size=len(images),
        ignored_scope=nncf.IgnoredScope(
            names=[name for name in names if _part_of(module_of(name), parts) != part], validate=False
        ),
    )


def _part_of(module: str, parts: Parts) -> str | None:
    return next((part for part, patterns in parts.items() if is_any_of(module, patterns)), None)


def measure(predict_row: Predict, images: GraphImages) -> Measured:
    """Run a model on a test set.

    Args:
        predict_row: The model.
        images: The test set, with the column ``category``.

    Returns:
        Metrics, scores and maps.
    """
    records: dict[str, list[ImageRecord]] = {}
    for row, category in enumerate(images.dataset.samples["category"]):
        item: Any = images.item(row)
        score, anomaly_map = predict_row(item, images.to_input(item))
        mask = Mask(item.gt_mask)[None]
        mask = functional.resize(mask, list(anomaly_map.shape), interpolation=InterpolationMode.NEAREST)
        record = ImageRecord(
            item.image_path, bool(item.gt_label), score, anomaly_map, torch.as_tensor(mask[0]).numpy() > 0
        )
        records.setdefault(category, []).append(record)
    evaluation = Evaluation([ImageAUROC(), PixelAUROC()])
    for category, of_category in records.items():
        evaluation.add(category, of_category)
    every: list[Any] = [record for of_category in records.values() for record in of_category]
    scores, maps = np.array([record.score for record in every]), np.stack([record.anomaly_map for record in every])
    return Measured(evaluation.report().mean, scores, maps)


def compare(model: Measured, reference: Measured) -> dict[str, float]:
    """Compare a model with the checkpoint.

    Args:
        model: Results of the model.
        reference: Results of the checkpoint.

    Returns:
        Metrics, their changes in points of a hundred, changes of scores relative to them, and the largest change of a
        map relative to its range.
    """
    change = np.abs(model.scores / reference.scores - 1)
    ranges = np.ptp(reference.maps, axis=(1, 2))
    map_change = np.abs(model.maps - reference.maps).max(axis=(1, 2)) / ranges
    return {
        **{name: round(model.mean[name], 5) for name in METRICS},
        "image_points": round(100 * (model.mean["image_AUROC"] - reference.mean["image_AUROC"]), 3),
        "pixel_points": round(100 * (model.mean["pixel_AUROC"] - reference.mean["pixel_AUROC"]), 3),
        "score_median_change": float(f"{np.median(change):.2g}"),
        "score_largest_change": float(f"{change.max():.2g}"),
        "scores_within_0.01": round(float((change <= 0.01).mean()), 4),
        "map_largest_change": float(f"{map_change.max():.2g}"),
    }


if __name__ == "__main__":
    main()
