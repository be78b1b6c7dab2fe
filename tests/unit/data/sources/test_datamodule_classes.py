# SPDX-License-Identifier: Apache-2.0

"""Classes are found by name or import path, entries of a configuration become datamodules, all else is an error."""

from __future__ import annotations

from typing import Any

import pytest
from anomalib.data import Folder, MVTecAD, Visa
from omegaconf import OmegaConf

from anomalib_crad.data.mvtec import MVTec
from anomalib_crad.data.sources.datamodule_classes import as_datamodule, create, find_datamodule_class, to_builtin


def test_names_and_import_paths_are_found() -> None:
    assert find_datamodule_class("Visa", "base") is Visa
    assert find_datamodule_class("anomalib.data.Visa", "base") is Visa
    assert find_datamodule_class("anomalib_crad.data.mvtec.MVTec", "base") is MVTec


@pytest.mark.parametrize("name", ["Vsia", "no_such_package.Visa", "anomalib.data.Vsia", "anomalib data.Visa", ".Visa"])
def test_unknown_name_lists_the_known_ones(name: str) -> None:
    with pytest.raises(ValueError, match=rf"Unknown `base`: '{name}'. Known: AutoVI, BMAD, .*Visa; or give the import"):
        find_datamodule_class(name, "base")


@pytest.mark.parametrize("name", ["Avenue", "MVTec3D", "ImageBatch", "get_datamodule"])
def test_what_is_no_datamodule_of_images_is_an_error(name: str) -> None:
    with pytest.raises(ValueError, match=rf"`base` is '{name}', which is no datamodule of images"):
        find_datamodule_class(name, "base")


def test_a_dict_becomes_a_datamodule_and_a_datamodule_stays_one() -> None:
    datamodule = as_datamodule({"class_path": "anomalib.data.Visa", "init_args": {"category": "pcb1"}})
    assert isinstance(datamodule, Visa)
    assert datamodule.category == "pcb1"
    assert as_datamodule(datamodule) is datamodule
    assert isinstance(as_datamodule({"class_path": "MVTecAD"}), MVTecAD)


@pytest.mark.parametrize("entry", ["Visa", 3, {"init_args": {}}])
def test_any_other_entry_is_an_error(entry: object) -> None:
    with pytest.raises(ValueError, match=r"`datamodules` holds .*Each entry must be an anomalib datamodule, or a dict"):
        as_datamodule(entry)


def test_wrong_arguments_of_an_entry_name_class_and_argument() -> None:
    with pytest.raises(ValueError, match=r"Visa takes no `categry` \(`init_args`\). It takes: root, category, "):
        as_datamodule({"class_path": "Visa", "init_args": {"categry": "pcb1"}})
    with pytest.raises(ValueError, match="Folder needs `name`, `normal_dir` in `init_args`"):
        as_datamodule({"class_path": "Folder"})


def test_a_class_that_takes_any_argument_gets_it() -> None:
    class Mine(Folder):
        def __init__(self, **kwargs: Any) -> None:  # noqa: ANN401
            super().__init__("mine", **kwargs)

    assert isinstance(create(Mine, {"normal_dir": "x"}), Mine)


def test_omegaconf_becomes_to_builtin() -> None:
    value = to_builtin(OmegaConf.create({"a": [1, {"b": "${a[0]}"}]}))
    assert value == {"a": [1, {"b": 1}]}
    assert type(value["a"]) is list
    assert to_builtin("x") == "x"
