# SPDX-License-Identifier: Apache-2.0

"""One picture of a run: good and anomalous images of every category beside their heat maps.

anomalib saves a picture of every test image. This overview is the one to look at first and to put into a report: all
images share one colour scale, so it shows what one threshold for all categories would see.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from matplotlib.figure import Figure
from PIL import Image

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import pandas as pd

    from anomalib_crad.prediction import Prediction

_COLUMNS = 3
_CELL_INCHES = 1.55


def save_overview(
    predictions: Sequence[Prediction],
    samples: pd.DataFrame,
    path: Path,
    columns: int = _COLUMNS,
) -> Path:
    """Draw images of each category beside their heat maps.

    The images are spread evenly over the range of scores instead of being the best ones: ``columns`` good images in
    one row and as many anomalous ones in the next, in ascending order of their scores.

    Args:
        predictions: Predictions of a trained model.
        samples: Frame of the dataset with ``image_path``, ``label_index`` and, for several categories, ``category``.
        path: File to save the picture to.
        columns: Images in a row. Defaults to ``3``.

    Returns:
        ``path``.

    Raises:
        ValueError: If no prediction is for an image of ``samples``.
    """
    rows = _rows({prediction.image_path: prediction for prediction in predictions}, samples, columns)
    if not rows:
        msg = "None of the predictions is for an image of samples: there is nothing to draw."
        raise ValueError(msg)
    figure = Figure(figsize=(2 * columns * _CELL_INCHES, len(rows) * _CELL_INCHES * 1.12), layout="constrained")
    axes = figure.subplots(len(rows), 2 * columns, squeeze=False)
    for axis in axes.flat:
        axis.axis("off")
    for row, (title, shown) in zip(axes, rows, strict=True):
        row[0].set_title(title, loc="left", fontsize=9, fontweight="bold")
        for column, prediction in enumerate(shown):
            height, width = prediction.anomaly_map.shape
            with Image.open(prediction.image_path) as file:
                image = file.convert("RGB").resize((width, height))
            row[2 * column].imshow(image)
            row[2 * column + 1].imshow(image)
            row[2 * column + 1].imshow(prediction.anomaly_map, cmap="jet", vmin=0, vmax=1, alpha=0.5)
            row[2 * column + 1].set_title(f"{prediction.score:.2f}", fontsize=9, loc="right")
    figure.savefig(path, dpi=110)
    return path


def _rows(
    predictions: dict[str, Prediction], samples: pd.DataFrame, columns: int
) -> list[tuple[str, list[Prediction]]]:
    """Return title and images of each row."""
    categories = samples["category"] if "category" in samples else np.full(len(samples), "all")
    rows = []
    for (category, label), group in samples.groupby([categories, "label_index"], sort=True):
        scored = sorted(
            (predictions[name] for name in group["image_path"] if name in predictions),
            key=lambda prediction: prediction.score,
        )
        if not scored:
            continue
        # From the middle of the first slice to the middle of the last: neither the easiest nor the hardest image.
        count = min(columns, len(scored))
        shown = [scored[int(place)] for place in (np.arange(count) + 0.5) / count * len(scored)]
        rows.append((f"{category}, {'anomalous' if label else 'good'}", shown))
    return rows
