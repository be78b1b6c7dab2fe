# SPDX-License-Identifier: Apache-2.0

"""A package: one folder with all that a device needs, and how to tell that it is complete and unaltered.

::

    crad/
      1/model.xml, 1/model.bin   the OpenVINO model; "1" is the version, so OpenVINO Model Server takes the folder as is
      metadata.json              categories, thresholds, settings, versions, hashes
      sample.png                 an image, whose expected score is in the metadata
      README.md                  how to run it

Hashes guard against accidents of copying and editing, not against an attacker, who could write new ones.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from anomalib_crad.export.thresholds import ExportedThresholds

if TYPE_CHECKING:
    from collections.abc import Mapping

MODEL = "1/model.xml"
WEIGHTS = "1/model.bin"
METADATA = "metadata.json"
README = "README.md"
#: Name of the sample, without the ending of its format.
SAMPLE = "sample"
#: Grows when older code could misread the metadata.
FORMAT = 1

_OWN_HASH = "sha256"


@dataclass(frozen=True)
class ExpectedSample:
    """The sample image and what the model must say of it.

    Attributes:
        path: The image.
        score: Image score of the exported model where the package was made.
        label: Whether it is called anomalous.
        tolerance: Largest difference from ``score`` on another device or version.
        limit: Score above which an image is anomalous.
    """

    path: Path
    score: float
    label: bool
    tolerance: float
    limit: float


@dataclass(frozen=True)
class EdgePackage:
    """A complete package.

    Attributes:
        folder: Where it is.
        metadata: What ``metadata.json`` holds.
    """

    folder: Path
    metadata: Mapping[str, Any]

    @classmethod
    def open(cls, folder: str | Path) -> EdgePackage:
        """Open a package after comparing all files with their hashes.

        Args:
            folder: The folder.

        Returns:
            The package.

        Raises:
            FileNotFoundError: If the folder is no package, or a file of it is missing.
            ValueError: If a file was altered, or a newer version of this library wrote it.
        """
        folder = Path(folder)
        metadata = _read_metadata(folder)
        missing = [name for name in metadata["files"] if not (folder / name).is_file()]
        if missing:
            msg = f"'{folder}' is incomplete: it lacks {', '.join(missing)}. Copy or make it again."
            raise FileNotFoundError(msg)
        altered = [name for name, expected in metadata["files"].items() if file_hash(folder / name) != expected]
        if altered:
            msg = f"'{folder}' was altered: {', '.join(altered)} is not as it was made. Copy or make it again."
            raise ValueError(msg)
        return cls(folder, metadata)

    @property
    def model_path(self) -> Path:
        """The ``.xml`` file; its weights are beside it."""
        return self.folder / MODEL

    @property
    def sample(self) -> ExpectedSample:
        """The sample image and what the model must say of it."""
        sample = self.metadata["sample"]
        return ExpectedSample(
            path=self.folder / sample["file"],
            score=float(sample["score"]),
            label=bool(sample["label"]),
            tolerance=float(sample["tolerance"]),
            limit=1 - self.thresholds.image_sensitivity,
        )

    @property
    def thresholds(self) -> ExportedThresholds:
        """Thresholds: the pooled ones and those of categories."""
        return ExportedThresholds.from_json(json.dumps(self.metadata["thresholds"]))


def write_metadata(folder: Path, metadata: Mapping[str, Any]) -> None:
    """Write ``metadata.json`` with the hashes of all other files and of itself.

    Args:
        folder: The folder, complete but for this file and the README, which may be edited later.
        metadata: Plain data; the entries ``format``, ``files`` and ``sha256`` are added.
    """
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name not in {README, METADATA})
    hashes = {path.relative_to(folder).as_posix(): file_hash(path) for path in files}
    content = {"format": FORMAT, **metadata, "files": hashes}
    text = json.dumps({**content, _OWN_HASH: _content_hash(content)}, indent=2, allow_nan=False, ensure_ascii=False)
    (folder / METADATA).write_text(text + "\n", encoding="utf-8")


def _read_metadata(folder: Path) -> dict[str, Any]:
    path = folder / METADATA
    if not path.is_file():
        msg = f"'{folder}' is no package: there is no {METADATA}. Make one with 'python -m anomalib_crad package'."
        raise FileNotFoundError(msg)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        expected = content.pop(_OWN_HASH)
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        msg = f"'{path}' is damaged, or not that of a package: {error!r}. Copy or make the package again."
        raise ValueError(msg) from error
    if _content_hash(content) != expected:
        msg = f"'{path}' was altered: it is not as it was made. Copy or make the package again."
        raise ValueError(msg)
    if content["format"] > FORMAT:
        msg = f"'{folder}' has format {content['format']}, this version reads {FORMAT}. Update anomalib-crad."
        raise ValueError(msg)
    return content


def file_hash(path: Path) -> str:
    """Return the SHA-256 of a file.

    Args:
        path: The file.

    Returns:
        64 hexadecimal digits.
    """
    with path.open("rb") as file:
        # hashlib.file_digest would do, from Python 3.11 on.
        digest = hashlib.sha256()
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _content_hash(content: Mapping[str, Any]) -> str:
    """Hash what the metadata say, however they are indented."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
