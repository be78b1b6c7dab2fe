# SPDX-License-Identifier: Apache-2.0

"""Run a package on a folder of images: a CSV file in the order of the images, and pictures with heat maps.

Each image has one row, whether it could be read or not, so that rows and files match. Whatever is wrong with one image,
a link without a target or a name that is too long for its picture, affects that image's row only. Rows are written as
they come: a run that breaks off leaves those that it has.
"""

from __future__ import annotations

import errno
import logging
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, get_args

from anomalib.data.utils import get_image_filenames, validate_path
from anomalib.data.utils.image import is_image_file
from anomalib.visualization.image.functional import add_text_to_image, overlay_image, visualize_anomaly_map
from PIL import Image
from rich.progress import track

from anomalib_crad.deploy.stream import stream
from anomalib_crad.files import write_rows

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy as np
    from numpy.typing import NDArray
    from rich.console import Console

    from anomalib_crad.deploy.run import EdgeModel
    from anomalib_crad.deploy.stream import StreamResult
    from anomalib_crad.prediction import Prediction

logger = logging.getLogger(__name__)

RESULTS = "results.csv"
OVERLAYS = "overlays"
COLUMNS = ("image", "score", "label", "overlay", "error")

_HEAT_MAP_OPACITY = 0.5
_JPEG_QUALITY = 90

#: Errors of a picture's own name, which other pictures do not share: too long, or impossible on the disk.
_NAME_ERRORS = {errno.ENAMETOOLONG, errno.EINVAL}

#: Which images to draw.
Overlays: TypeAlias = Literal["all", "anomalous", "none"]


@dataclass
class StreamSummary:
    """Counts and time of a stream.

    Attributes:
        images: Images that were predicted. Defaults to ``0``.
        anomalous: Those of them that are anomalous. Defaults to ``0``.
        skipped: Images that could not be predicted. Defaults to ``0``.
        seconds: Time of the whole run. Defaults to ``0.0``.
    """

    images: int = 0
    anomalous: int = 0
    skipped: int = 0
    seconds: float = 0.0

    def __str__(self) -> str:
        """One sentence for a person."""
        rate = self.images / self.seconds if self.seconds else 0.0
        return (
            f"{self.images} images, {self.anomalous} anomalous, {self.skipped} skipped, "
            f"in {self.seconds:.1f} s ({rate:.1f} images/s)."
        )


def stream_folder(
    model: EdgeModel,
    images: str | Path,
    output: str | Path,
    overlays: Overlays = "all",
    console: Console | None = None,
) -> StreamSummary:
    """Predict all images of a folder and its folders.

    Args:
        model: The model, compiled for throughput.
        images: The folder, or one image.
        output: Folder for ``results.csv`` and ``overlays``, which has the same folders as ``images``. Files of an
            earlier run are replaced; pictures of images that no longer exist stay.
        overlays: Which images to draw: ``"all"``, ``"anomalous"`` or ``"none"``. Defaults to ``"all"``.
        console: Where to show progress. Defaults to ``None``: nowhere.

    Returns:
        Counts and time.

    Raises:
        FileNotFoundError: If ``images`` does not exist.
        OSError: If ``output`` cannot be written.
        ValueError: If there are no images, ``output`` is below ``images``, or ``overlays`` is unknown.
    """
    if overlays not in get_args(Overlays):
        msg = f"overlays must be one of {', '.join(get_args(Overlays))}, got {overlays!r}."
        raise ValueError(msg)
    images, output = Path(images), Path(output)
    if not images.exists():
        msg = f"images: there is no file or folder '{images}'."
        raise FileNotFoundError(msg)
    if images.is_dir() and output.resolve().is_relative_to(images.resolve()):
        msg = f"output '{output}' lies in images '{images}': its pictures would be images of the next run. Move it out."
        raise ValueError(msg)
    names, paths = _list_images(images)
    summary = StreamSummary()

    def rows() -> Iterator[dict[str, Any]]:
        results = stream(model, paths)
        for result in track(results, "Streaming", len(paths), console=console, disable=console is None):
            _count(result, summary)
            yield _row(result, output, names[result.index], overlays)

    begin = time.perf_counter()
    write_rows(output / RESULTS, COLUMNS, rows())
    summary.seconds = time.perf_counter() - begin
    return summary


def draw_overlay(image: NDArray[np.uint8], prediction: Prediction) -> Image.Image:
    """Lay the heat map over an image, in anomalib's colours, and write score and label on it.

    Colours span 0 to 1 in every picture: green is the threshold, blue is normal, red is anomalous.

    Args:
        image: Height x width x 3 bytes.
        prediction: Prediction of the model, with the map in (0, 1).

    Returns:
        A picture of the image's size.
    """
    height, width = image.shape[:2]
    heat_map = visualize_anomaly_map(prediction.anomaly_map).resize((width, height), Image.Resampling.BILINEAR)
    picture = overlay_image(Image.fromarray(image), heat_map, _HEAT_MAP_OPACITY)
    text = f"{prediction.score:.2f} {'anomalous' if prediction.label else 'normal'}"
    return add_text_to_image(picture, text, size=max(height // 16, 10), position=(6, 6))


def _list_images(images: Path) -> tuple[list[Path], list[Path]]:
    """List images by their names below a folder, in order, and by their paths.

    anomalib lists images only if each of them exists; here a link without a target is an image that cannot be read.
    """
    if not images.is_dir():
        # A link to an image keeps its own name.
        return [Path(images.name)], get_image_filenames(images)
    folder = validate_path(images)
    paths = sorted(path for path in folder.rglob("*") if is_image_file(path))
    if not paths:
        msg = f"Found 0 images in {folder}"
        raise ValueError(msg)
    return [path.relative_to(folder) for path in paths], paths


def _count(result: StreamResult, summary: StreamSummary) -> None:
    if result.prediction is None:
        logger.warning("Skipped '%s': %s", _printable(result.name), _printable(result.error or ""))
        summary.skipped += 1
    else:
        summary.images += 1
        summary.anomalous += result.prediction.label


def _save_overlay(result: StreamResult, output: Path, name: Path, overlays: Overlays) -> str:
    """Draw an image if the user wants it, and return the picture's path below ``output``."""
    if result.prediction is None or result.image is None or overlays == "none":
        return ""
    if overlays == "anomalous" and not result.prediction.label:
        return ""
    # The name keeps the image's ending, because a.png and a.jpg may lie side by side.
    picture = Path(OVERLAYS) / name.with_name(name.name + ".jpg")
    (output / picture).parent.mkdir(parents=True, exist_ok=True)
    draw_overlay(result.image, result.prediction).save(output / picture, quality=_JPEG_QUALITY)
    return picture.as_posix()


def _row(result: StreamResult, output: Path, name: Path, overlays: Overlays) -> dict[str, Any]:
    """Draw an image if the user wants it, and return its row."""
    row: dict[str, Any] = {"image": _printable(name.as_posix())}
    if result.prediction is None:
        return {**row, "error": _printable(result.error or "")}
    row |= {"score": result.prediction.score, "label": "anomalous" if result.prediction.label else "normal"}
    try:
        return {**row, "overlay": _printable(_save_overlay(result, output, name, overlays))}
    except OSError as error:
        if error.errno not in _NAME_ERRORS:
            raise
        reason = f"No picture: {error.strerror}."
        logger.warning("'%s': %s", _printable(result.name), reason)
        return {**row, "error": reason}


def _printable(text: str) -> str:
    """Escape what is not valid Unicode: Linux allows any bytes in the name of a file, UTF-8 does not."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")
