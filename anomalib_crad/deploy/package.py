# SPDX-License-Identifier: Apache-2.0

"""A package: one folder with all that a device needs, and the check that it is complete and unaltered.

::

    crad/
      1/model.xml, 1/model.bin   the OpenVINO model; "1" is the version, so OpenVINO Model Server takes the folder as is
      metadata.json              categories, thresholds, settings, versions, hashes
      sample.png                 an image, whose expected score is in the metadata
      README.md                  how to run it

Hashes detect accidents of copying and editing. They do not stop an attacker, who can write new ones.
"""

from __future__ import annotations

import hashlib
import json
import shlex
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

#: Twenty lines for a person who knows nothing about the folder.
_README_TEMPLATE = """\
# {name}: finds defects in images

{model}, exported to OpenVINO ({precision}) on {created}. An image goes in, of any size; a score from 0 to 1, a label
(anomalous is above {limit:g}) and a heat map come out. Categories: {categories}.

Check that this folder is complete and that this device computes what it should:

    pip install 'anomalib-crad[openvino]' && anomalib-crad verify .

Run it on a folder of images, with a CSV file and overlay pictures as the result:

    anomalib-crad stream . --images FOLDER --output RESULTS

Without that package, OpenVINO alone is enough: `docs/examples/` of anomalib-crad has a Python and a C++ program.
OpenVINO Model Server, told not to round to bfloat16:

    ovms --model_name {quoted} --model_path "$PWD" --rest_port 8000 \\
        --plugin_config '{{"INFERENCE_PRECISION_HINT": "f32"}}'

- `1/model.xml`, `1/model.bin`: the model. `metadata.json`: thresholds, settings, versions, hashes.
- `{sample}`: a sample; its score is {score:.4f}, {label}. It is a copy of an image that the maker of this folder chose
  and has its owner's licence. Make sure that the licence allows it before you pass this folder on.
"""


@dataclass(frozen=True)
class ExpectedSample:
    """The sample image, and what the model must predict for it.

    Attributes:
        path: The image.
        score: Image score of the exported model where the package was made.
        label: Whether that model called the image anomalous.
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
        folder: The folder.
        metadata: Content of ``metadata.json``.
    """

    folder: Path
    metadata: Mapping[str, Any]

    @classmethod
    def open(cls, folder: str | Path) -> EdgePackage:
        """Open a package, after comparing all files with their hashes.

        Args:
            folder: The folder.

        Returns:
            The package.

        Raises:
            FileNotFoundError: If the folder is not a package, or a file is missing.
            ValueError: If a file was altered, or a newer version of this library wrote the package.
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
        """The ``.xml`` file of the model, with its weights beside it."""
        return self.folder / MODEL

    @property
    def sample(self) -> ExpectedSample:
        """The sample image, and what the model must predict for it."""
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
        """The pooled thresholds and those of categories."""
        return ExportedThresholds.from_json(json.dumps(self.metadata["thresholds"]))


def write_metadata(folder: Path, metadata: Mapping[str, Any]) -> None:
    """Write ``metadata.json`` with the hashes of all other files and of its own content.

    Args:
        folder: The folder, complete but for this file and the README, which has no hash and may be edited later.
        metadata: Plain data; the entries ``format``, ``files`` and ``sha256`` are added.
    """
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name not in {README, METADATA})
    hashes = {path.relative_to(folder).as_posix(): file_hash(path) for path in files}
    content = {"format": FORMAT, **metadata, "files": hashes}
    text = json.dumps({**content, _OWN_HASH: _content_hash(content)}, indent=2, allow_nan=False, ensure_ascii=False)
    (folder / METADATA).write_text(text + "\n", encoding="utf-8")


def package_readme(name: str, metadata: Mapping[str, Any]) -> str:
    """Return the text of a package's README.

    Args:
        name: Name of the package.
        metadata: Content of the future ``metadata.json``.

    Returns:
        Markdown.
    """
    sample = metadata["sample"]
    return _README_TEMPLATE.format(
        name=name,
        quoted=shlex.quote(name),
        model=metadata["name"],
        precision=metadata["precision"],
        created=metadata["created"][:10],
        limit=1 - metadata["thresholds"]["image_sensitivity"],
        categories=", ".join(metadata["categories"]) or "one threshold for all",
        sample=sample["file"],
        score=sample["score"],
        label="anomalous" if sample["label"] else "normal",
    )


def _read_metadata(folder: Path) -> dict[str, Any]:
    path = folder / METADATA
    if not path.is_file():
        msg = f"'{folder}' is no package: there is no {METADATA}. Make one with 'anomalib-crad package'."
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
    """Hash the content of the metadata, independent of its indentation."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
