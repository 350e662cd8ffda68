"""Import paths of release 0.1 still work, with a warning that names the new ones."""

import importlib
import sys
from pathlib import Path

import pytest
import torch

import cropr_mm
from cropr_mm.engine.config import load_config
from cropr_mm.engine.preflight import SetupError
from cropr_mm.moved import MOVED, REMOVED, SPLIT
from cropr_mm.reducers import TokenReducer
from cropr_mm.schedules import ScheduleSettings
from cropr_mm.structures import Tokens


@pytest.fixture(autouse=True)
def _fresh() -> None:
    """Forget old modules that another test has imported."""
    for name in (*MOVED, *SPLIT):
        sys.modules.pop(f"cropr_mm.{name}", None)


@pytest.mark.parametrize("old", MOVED)
def test_an_old_module_is_the_new_one(old: str) -> None:
    with pytest.warns(DeprecationWarning, match=f"cropr_mm.{MOVED[old]} now"):
        module = importlib.import_module(f"cropr_mm.{old}")
    assert module is importlib.import_module(f"cropr_mm.{MOVED[old]}")
    assert module.__name__ == module.__spec__.name == f"cropr_mm.{MOVED[old]}"


@pytest.mark.parametrize("old", SPLIT)
def test_names_of_an_old_module_are_those_of_the_new_ones(old: str) -> None:
    with pytest.warns(DeprecationWarning, match=r"goes in cropr_mm 0\.3"):
        module = importlib.import_module(f"cropr_mm.{old}")
    for name, path in SPLIT[old].items():
        home, _, new = path.rpartition(".")
        assert getattr(module, name) is getattr(importlib.import_module(f"cropr_mm.{home}"), new)


@pytest.mark.parametrize("old", [*REMOVED, "comparison.packs"])
def test_what_has_left_the_package_is_said(old: str) -> None:
    place = REMOVED[old.partition(".")[0] if old.startswith("comparison") else old]
    with pytest.raises(ModuleNotFoundError, match=f"see {place} in the repository"):
        importlib.import_module(f"cropr_mm.{old}")


MODULES = Path(__file__).with_name("modules_of_release_0_1.txt").read_text().split()


def test_every_module_of_release_0_1_is_there_or_named() -> None:
    """Found without importing: an old folder's files must not be found in the new folder."""
    lost = []
    for name in MODULES:
        old = name.removeprefix("cropr_mm.")
        file = Path(cropr_mm.__file__).parent / old.replace(".", "/")
        left = any(old == one or old.startswith(f"{one}.") for one in REMOVED)
        there = name == "cropr_mm" or file.with_suffix(".py").is_file() or file.is_dir()
        if not (old in MOVED or old in SPLIT or left or there):
            lost.append(name)
    assert not lost


def test_a_module_that_became_several_names_all() -> None:
    homes = r"engine\.config, .*engine\.console, .*engine\.runner and cropr_mm\.engine\.train now"
    with pytest.warns(DeprecationWarning, match=rf"runner is split into cropr_mm\.{homes}"):
        importlib.import_module("cropr_mm.runner")


def test_names_that_changed_in_a_module_are_taken() -> None:
    with pytest.warns(DeprecationWarning, match="with_features is Tokens.replace now") as warned:
        from cropr_mm.structures import with_features
    assert warned[0].filename == __file__
    tokens = Tokens(torch.zeros(1, 2, 3), torch.tensor([[0, 1]]), (1, 2), size=torch.ones(1, 2))
    changed = with_features(tokens, torch.ones(1, 2, 3))
    assert changed.x.eq(1).all()
    assert changed.size is tokens.size
    with pytest.warns(DeprecationWarning, match="base.Setting is ScheduleSettings now"):
        from cropr_mm.schedules.base import Setting
    assert Setting is ScheduleSettings
    with pytest.raises(ImportError, match="Settings"):
        from cropr_mm.schedules.base import Settings  # noqa: F401


def test_other_names_stay_unknown() -> None:
    with pytest.raises(ModuleNotFoundError, match=r"cropr_mm\.runners"):
        importlib.import_module("cropr_mm.runners")


@pytest.mark.parametrize(
    ("given", "found"),
    [
        ("configs/old.py", "; there is configs/classification/old.py"),
        ("configs/detection/old.py", "; there is configs/classification/old.py"),
        ("old.py", "; there is configs/classification/old.py"),
        ("mine/old.py", "; there is mine/deep/old.py"),
        ("configs/absent.py", ""),
        ("nowhere/old.py", ""),
        ("configs/", ""),
    ],
)
def test_a_config_that_has_moved_is_named(
    given: str, found: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for file in (Path("configs/classification/old.py"), Path("mine/deep/old.py")):
        file.parent.mkdir(parents=True)
        file.write_text("")
    with pytest.raises(SetupError, match=f"found none at {given}{found}$"):
        load_config(given)


def test_a_method_of_release_0_1_is_taken_under_the_new_names() -> None:
    with pytest.warns(DeprecationWarning, match="Old.isolated is called stop_gradient now"):

        class Old(TokenReducer):
            isolated = True

    assert Old(8).stop_gradient is True
    assert TokenReducer.stop_gradient is False
