# SPDX-License-Identifier: Apache-2.0

"""Entry points become attributes of the module that their group names, and nothing that was there before is lost."""

from __future__ import annotations

import importlib.metadata
import sys
from types import ModuleType
from typing import TYPE_CHECKING

import pytest
from mimic_host import write_distribution, write_modules

from anomalib_crad.plugin import publishing
from anomalib_crad.plugin.publishing import publish_entry_points

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

GROUP = "host_of_plugins"


@pytest.fixture
def target(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """A module like `anomalib.models` with a class `Padim`, and a plugin package beside it."""
    write_modules(
        tmp_path,
        {
            "acme/__init__.py": "from acme.models.net import AcmeNet",
            "acme/models/__init__.py": "",
            "acme/models/net.py": "class AcmeNet: ...\nclass Padim: ...",
            "rival.py": "class AcmeNet: ...",
        },
    )
    monkeypatch.syspath_prepend(tmp_path)
    module = ModuleType(GROUP)
    vars(module).update(
        Padim=type("Padim", (), {"__module__": GROUP}),
        image=ModuleType("image"),
        ALLOWED_MODULES={GROUP},
        __all__=["Padim"],
    )
    monkeypatch.setitem(sys.modules, GROUP, module)
    yield module
    for name in ("acme", "acme.models", "acme.models.net", "rival"):
        sys.modules.pop(name, None)


def declare(root: Path, distribution: str = "acme", **entries: str) -> None:
    write_distribution(root, distribution, {GROUP: entries})


def test_a_class_gets_a_public_name_and_the_paths_by_which_it_can_be_imported(
    target: ModuleType,
    tmp_path: Path,
    recwarn: pytest.WarningsRecorder,
) -> None:
    declare(tmp_path, AcmeNet="acme.models.net:AcmeNet")

    publish_entry_points(target)
    publish_entry_points(target)

    assert target.AcmeNet is sys.modules["acme"].AcmeNet
    assert target.__all__ == ["Padim", "AcmeNet"]
    assert sorted(target.ALLOWED_MODULES) == ["acme", "acme.models.net", GROUP]  # `acme.models` has no such name
    assert not recwarn.list


def test_the_defining_module_is_allowed_when_the_entry_point_names_another(target: ModuleType, tmp_path: Path) -> None:
    declare(tmp_path, AcmeNet="acme:AcmeNet")

    publish_entry_points(target)

    assert sorted(target.ALLOWED_MODULES) == ["acme", "acme.models.net", GROUP]


def test_a_target_without_lists_gets_the_attribute_only(target: ModuleType, tmp_path: Path) -> None:
    del target.ALLOWED_MODULES, target.__all__
    declare(tmp_path, AcmeNet="acme.models.net:AcmeNet")

    publish_entry_points(target)

    assert target.AcmeNet.__module__ == "acme.models.net"
    assert not hasattr(target, "ALLOWED_MODULES")
    assert not hasattr(target, "__all__")


@pytest.mark.parametrize(
    ("name", "reference", "holder"),
    [
        ("Padim", "acme.models.net:Padim", "Padim"),
        ("Padim", "acme.models.net:AcmeNet", "Padim"),
        ("AcmeNet", "acme.models.net:Padim", "Padim"),
        ("PADIM", "acme.models.net:AcmeNet", "Padim"),
        ("image", "acme.models.net:AcmeNet", "image"),
    ],
)
def test_what_the_host_has_is_neither_replaced_nor_joined_by_a_namesake(
    target: ModuleType,
    tmp_path: Path,
    name: str,
    reference: str,
    holder: str,
) -> None:
    before = dict(vars(target))
    declare(tmp_path, **{name: reference})

    with pytest.warns(RuntimeWarning, match=rf"'{name} = {reference}' is not loaded.* by {GROUP}\.{holder}; it needs"):
        publish_entry_points(target)

    assert vars(target) == before
    assert "acme" not in sys.modules


def test_a_class_may_be_named_as_a_module_of_the_host_but_for_its_case(target: ModuleType, tmp_path: Path) -> None:
    declare(tmp_path, Image="acme.models.net:AcmeNet")

    publish_entry_points(target)

    assert target.Image.__name__ == "AcmeNet"


def test_the_first_of_two_plugins_with_one_name_wins(target: ModuleType, tmp_path: Path) -> None:
    declare(tmp_path, AcmeNet="acme.models.net:AcmeNet")
    declare(tmp_path, "rival", AcmeNet="rival:AcmeNet")

    with pytest.warns(RuntimeWarning, match=r"is not loaded, because its name is taken") as warned:
        publish_entry_points(target)

    assert len(warned) == 1
    assert target.AcmeNet.__module__ in {"acme.models.net", "rival"}
    assert len({"acme", "rival"} & set(sys.modules)) == 1


def test_a_host_that_reads_the_group_itself_is_left_as_it_is(
    target: ModuleType,
    tmp_path: Path,
    recwarn: pytest.WarningsRecorder,
) -> None:
    declare(tmp_path, AcmeNet="acme.models.net:AcmeNet")
    (entry_point,) = importlib.metadata.entry_points(group=GROUP)
    target.AcmeNet = published = entry_point.load()  # type: ignore[attr-defined]

    publish_entry_points(target)

    assert target.AcmeNet is published
    assert not recwarn.list


def test_a_plugin_may_publish_one_class_under_two_names(
    target: ModuleType,
    tmp_path: Path,
    recwarn: pytest.WarningsRecorder,
) -> None:
    declare(tmp_path, AcmeNet="acme.models.net:AcmeNet", OldName="acme.models.net:AcmeNet")

    publish_entry_points(target)

    assert target.OldName is target.AcmeNet
    assert not recwarn.list


@pytest.mark.parametrize("reference", ["acme.models.net:NotThere", "acme.models:net", "not_there:Net", "no reference"])
def test_a_plugin_that_cannot_be_loaded_is_named_with_its_error(
    target: ModuleType,
    tmp_path: Path,
    reference: str,
) -> None:
    declare(tmp_path, "broken", Broken=reference)
    declare(tmp_path, AcmeNet="acme.models.net:AcmeNet")

    with pytest.warns(
        RuntimeWarning, match=rf"{GROUP}\.Broken is missing, because the plugin '{reference}' cannot .*\("
    ):
        publish_entry_points(target)

    assert not hasattr(target, "Broken")
    assert hasattr(target, "AcmeNet")


def test_a_plugin_that_is_interrupted_by_the_user_is_interrupted(target: ModuleType, tmp_path: Path) -> None:
    write_modules(tmp_path, {"rival.py": "raise KeyboardInterrupt"})
    declare(tmp_path, Rival="rival:Rival")

    with pytest.raises(KeyboardInterrupt):
        publish_entry_points(target)


def test_unreadable_metadata_is_a_warning(target: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(**_: str) -> None:
        msg = "damaged"
        raise UnicodeError(msg)

    monkeypatch.setattr(publishing, "entry_points", fail)

    with pytest.warns(RuntimeWarning, match=rf"group '{GROUP}' cannot be read \(UnicodeError: damaged\)"):
        publish_entry_points(target)
