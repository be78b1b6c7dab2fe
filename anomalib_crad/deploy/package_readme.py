# SPDX-License-Identifier: Apache-2.0

"""The README of a package: twenty lines for a person who knows nothing of where the folder comes from."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

_TEMPLATE = """\
# {name}: finds defects in images

{model}, exported to OpenVINO ({precision}) on {created}. An image goes in, of any size; a score from 0 to 1, a label
(anomalous is above {limit:g}) and a heat map come out. Categories: {categories}.

Check that this folder is complete and that this device computes what it should:

    pip install 'anomalib-crad[openvino]' && python -m anomalib_crad verify .

Run it on a folder of images, with a CSV file and overlay pictures as the result:

    python -m anomalib_crad stream . --images FOLDER --output RESULTS

Without that package, OpenVINO alone is enough: `docs/examples/` of anomalib-crad has a Python and a C++ program.
OpenVINO Model Server, told not to round to bfloat16:

    ovms --model_name {quoted} --model_path "$PWD" --rest_port 8000 \\
        --plugin_config '{{"INFERENCE_PRECISION_HINT": "f32"}}'

- `1/model.xml`, `1/model.bin`: the model. `metadata.json`: thresholds, settings, versions, hashes.
- `{sample}`: a sample; its score is {score:.4f}, {label}. It is a copy of an image that the maker of this folder chose
  and has its owner's licence. Make sure that the licence allows it before you pass this folder on.
"""


def package_readme(name: str, metadata: Mapping[str, Any]) -> str:
    """Write the README.

    Args:
        name: Name of the package.
        metadata: What ``metadata.json`` will hold.

    Returns:
        Markdown.
    """
    sample = metadata["sample"]
    return _TEMPLATE.format(
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
