"""Import paths of release 0.1 still work, with a warning that names the new ones."""

import importlib
import sys
from pathlib import Path

import pytest

from cropr_mm.engine.config import load_config
from cropr_mm.engine.preflight import SetupError
from cropr_mm.moved import MOVED, REMOVED, SPLIT
from cropr_mm.reducers import TokenReducer


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
    for name, home in SPLIT[old].items():
        assert getattr(module, name) is getattr(importlib.import_module(f"cropr_mm.{home}"), name)


@pytest.mark.parametrize("old", [*REMOVED, "comparison.packs"])
def test_what_has_left_the_package_is_said(old: str) -> None:
    place = REMOVED[old.partition(".")[0] if old.startswith("comparison") else old]
    with pytest.raises(ModuleNotFoundError, match=f"see {place} in the repository"):
        importlib.import_module(f"cropr_mm.{old}")


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
