# SPDX-License-Identifier: Apache-2.0

"""Models that a benchmark builds, or refuses to build."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from anomalib.models import Draem
from PIL import Image

from anomalib_crad.benchmark.quality import _model

if TYPE_CHECKING:
    from pathlib import Path


def settings(class_path: str, **arguments: object) -> dict[str, Any]:
    return {"class_path": class_path, "init_args": arguments, "image_size": [32, 32], "score_window": 8}


def test_draem_is_refused_where_a_failed_download_left_no_textures(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"Draem paints defects from textures.*Delete that folder"):
        _model(settings("Draem", dtd_dir=str(tmp_path)), seed=0)
    Image.new("RGB", (8, 8)).save(tmp_path / "texture.jpg")
    assert isinstance(_model(settings("Draem", dtd_dir=str(tmp_path)), seed=0), Draem)


def test_an_unknown_model_is_an_error_with_the_nearest_names() -> None:
    with pytest.raises(ValueError, match="'Patchcor' is no model of anomalib's or ours; near: Patchcore"):
        _model(settings("Patchcor"), seed=0)
