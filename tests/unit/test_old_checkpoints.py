"""Weights of release 0.1 have the names and shapes of today's, so that its checkpoints load.

The record holds, for each method, the weights of the first reducer, and for Cropr those of the
encoder around it: written by release 0.1 for encoders of 224 px with a step after each block.
"""

import json
from pathlib import Path
from typing import Any

import pytest

from cropr_mm.backbones import CroprViT

RECORD = json.loads(Path(__file__).with_name("weights_of_release_0_1.json").read_text())


def build(reducer: dict[str, Any], arch: str) -> CroprViT:
    reducer = dict(reducer)
    deploy = reducer.pop("deploy", False)
    schedules = (
        dict(type="cropr_mm.ConstantRate", rate=3),
        dict(type="cropr_mm.KeepRatios", ratios={3: 0.7, 6: 0.5}),  # of methods that need ratios
    )
    for schedule in schedules:
        try:
            return CroprViT(
                arch=arch, img_size=224, reducer=reducer, schedule=schedule, deploy=deploy
            )
        except ValueError:
            continue
    raise AssertionError("no schedule fits")


@pytest.mark.parametrize("entry", RECORD, ids=lambda e: f"{e['reducer']}-{e['arch']}")
def test_names_and_shapes_stay(entry: dict[str, Any]) -> None:
    now = {
        name: list(v.shape)
        for name, v in build(entry["reducer"], entry["arch"]).state_dict().items()
    }
    before = entry["weights"]
    assert {name: now.get(name) for name in before} == before
    first = f"reducers.{entry['first']}."
    assert {n for n in now if n.startswith(first)} == {n for n in before if n.startswith(first)}


def test_every_method_of_the_release_is_recorded() -> None:
    assert len({entry["reducer"]["type"] for entry in RECORD}) == 18
