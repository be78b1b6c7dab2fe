# SPDX-License-Identifier: Apache-2.0

"""Run a package on one image with OpenVINO, NumPy and Pillow alone.

    pip install openvino numpy pillow
    python predict.py PACKAGE IMAGE [--category NAME] [--heat-map FILE.png]

Prints score and label, and writes the heat map as a grey picture with 0 to 255 for 0 to 1. ``--category`` applies that
category's own threshold.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import openvino
from PIL import Image


def main() -> None:
    """Read the command line, predict and print."""
    parser = argparse.ArgumentParser(description="Run a package on one image.")
    parser.add_argument("package", type=Path)
    parser.add_argument("image", type=Path)
    parser.add_argument("--category", help="use this category's own threshold")
    parser.add_argument("--heat-map", type=Path, default=Path("heat_map.png"))
    parser.add_argument("--device", default="CPU")
    options = parser.parse_args()

    pixels = read_image(options.image)
    # f32: by default OpenVINO uses bfloat16 on processors that have it, which is faster and loses three digits.
    config = {"INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY"}
    model = openvino.Core().compile_model(options.package / "1" / "model.xml", options.device, config)
    outputs = model(pixels.transpose(2, 0, 1)[None])  # 1 x 3 x height x width; the model resizes by itself
    score, heat_map = outputs["pred_score"].item(), outputs["anomaly_map"][0, 0]
    anomalous = bool(outputs["pred_label"].item())

    if options.category is not None:
        metadata = json.loads((options.package / "metadata.json").read_text(encoding="utf-8"))
        thresholds = metadata["thresholds"]
        score = rescale(score, "image", options.category, thresholds)
        heat_map = rescale(heat_map, "pixel", options.category, thresholds)
        anomalous = bool(score > 1 - thresholds["image_sensitivity"])

    print(f"score: {score:.6f}")
    print(f"label: {'anomalous' if anomalous else 'normal'}")
    Image.fromarray(np.rint(heat_map * 255).astype(np.uint8)).save(options.heat_map)


def read_image(path: Path) -> np.ndarray:
    """Read an image as training does.

    Args:
        path: The file.

    Returns:
        Height x width x 3 numbers from 0 to 1, red first.
    """
    try:
        with Image.open(path) as image:
            if image.mode == "F" or image.mode.startswith("I"):
                raise SystemExit(f"error: '{path}': grey of more than 8 bits; convert it to 8 bits, as for training")
            return np.asarray(image.convert("RGB"), np.float32) / 255
    except (OSError, SyntaxError, ValueError, EOFError) as error:  # Pillow raises any of these
        raise SystemExit(f"error: '{path}': {error}") from error


def rescale(value: float | np.ndarray, level: str, category: str, thresholds: dict) -> float | np.ndarray:
    """Convert from the threshold of all categories, which the model uses, to a category's own.

    Args:
        value: Score or map in (0, 1) from the model.
        level: ``"image"`` for scores, ``"pixel"`` for maps.
        category: Name of the category.
        thresholds: Section ``thresholds`` of ``metadata.json``.

    Returns:
        Score or map in (0, 1), where 0.5 is the category's threshold; unchanged if the level has no threshold.
    """
    if category not in thresholds["categories"]:
        known = ", ".join(thresholds["categories"]) or "none, as the model was trained with one threshold for all"
        raise SystemExit(f"category {category!r} has no threshold of its own; with one: {known}.")
    pooled = thresholds["pooled"].get(level)
    own = thresholds["categories"][category].get(level, pooled)
    if own is None:
        return value
    raw = value  # without a pooled threshold the model does not squash
    if pooled is not None:
        centred = 2 * value - 1
        raw = pooled["threshold"] + pooled["scale"] * centred / (1 - np.abs(centred))
    distance = (raw - own["threshold"]) / own["scale"]
    return 0.5 * (1 + distance / (1 + np.abs(distance)))


if __name__ == "__main__":
    main()
