"""Costs and parameters of the classification configs against published and analytic figures."""

from collections.abc import Iterable
from typing import Any

import pytest
import torch
from mmengine.config import Config
from shipped_configs import config_file

from cropr_mm import CroprViT
from cropr_mm.profiling import complexity_report
from cropr_mm.profiling.encoder_cost import encoder_cost

pytest.importorskip("mmpretrain")
# GMAC of the whole model: linear layers only, and with attention.
COSTS = {
    "unpruned_vitb_mae_in1k": (16.85, 17.56),
    "cropr_vitb_mae_in1k": (10.55, 10.88),
    "unpruned_vitl_mae_in1k": (59.65, 61.55),
    "cropr_vitl_mae_in1k": (33.91, 34.67),
    "cropr_vitl_mae_in1k_nofusion": (31.58, 32.26),
    "cropr_vitl_mae_in1k_3stage": (36.77, 37.65),
    "cropr_vitl_mae_in1k_3stage_fusion": (38.67, 39.63),
    "unpruned_vith_mae_in1k": (161.88, 167.30),
    "cropr_vith_mae_in1k": (88.16, 90.21),
    "unpruned_vitl_mae_in1k_336": (133.83, 143.43),
    "cropr_vitl_mae_in1k_336": (76.25, 80.11),
    "unpruned_vitl_mae_in1k_448": (237.68, 267.97),
    "cropr_vitl_mae_in1k_448": (135.54, 147.72),
    "unpruned_eva02_in1k_448": (310.1, 361.7),
    "cropr_eva02_in1k_448": (182.5, 204.1),
    "cropr_eva02_in1k_448_single": (92.1, 100.3),
    "unpruned_cvt13_in1k": (4.058, 4.566),
    "dtps_cvt13_in1k": (2.554, 3.021),
    "unpruned_psvitb_in1k": (4.964, 5.380),
    "dtps_psvitb_in1k": (3.46, 3.67),
}
# One of each kind: dense, with and without fusion, in stages, of EVA-02.
QUICK = (
    "unpruned_vitb_mae_in1k",
    "cropr_vitb_mae_in1k",
    "cropr_vitl_mae_in1k_nofusion",
    "cropr_vitl_mae_in1k_3stage_fusion",
    "cropr_eva02_in1k_448_single",
    "unpruned_cvt13_in1k",
    "dtps_cvt13_in1k",
    "unpruned_psvitb_in1k",
    "dtps_psvitb_in1k",
)
# Token Cropr, supplement, table 5: GMAC at rates 1 to 8 where the first step is like the others.
BY_RATE = (56.47, 53.28, 50.10, 46.92, 43.73, 40.55, 37.37, 34.18)


def report(name: str, **changes: Any) -> dict[str, Any]:
    cfg = Config.fromfile(config_file(name))
    cfg.merge_from_dict({key.replace("__", "."): value for key, value in changes.items()})
    return complexity_report(cfg)


def quick(names: Iterable[Any], wanted: Iterable[Any]) -> list[Any]:
    """All of these, each marked slow unless it is wanted in every run."""
    return [
        name if name in wanted else pytest.param(name, marks=pytest.mark.slow) for name in names
    ]


@pytest.mark.parametrize("name", quick(COSTS, QUICK))
def test_configs_cost_what_they_should_to_every_digit(name: str) -> None:
    linear, total = COSTS[name]
    digits = len(str(linear).partition(".")[2])
    model = report(name)["model"]
    assert round(model["macs_linear"] / 1e9, digits) == linear
    assert round(model["macs_total"] / 1e9, digits) == total
    assert model["not_counted"] == {}


@pytest.mark.parametrize("rate", quick(range(1, 9), (1, 8)))
def test_every_published_rate_without_the_class_token_in_the_first_step(rate: int) -> None:
    schedule = dict(model__backbone__schedule__rate=rate)
    schedule["model__backbone__schedule__absorb_prefix"] = False
    model = report("cropr_vitl_mae_in1k", **schedule)["model"]
    assert round(model["macs_linear"] / 1e9, 2) == BY_RATE[rate - 1]


def test_parameters_are_those_of_the_released_logs() -> None:
    dense, pruned = (report(f"{name}_vitl_mae_in1k")["model"] for name in ("unpruned", "cropr"))
    assert dense["params_trained"] == dense["params_deployed"] == 304_326_632
    assert pruned["params_trained"] == 511_651_288
    assert pruned["params_deployed"] == 304_326_632 + 22 * 1024


@pytest.mark.parametrize(("ratio", "total"), [(0.25, 1.555), (0.5, 2.147), (0.7, 2.878)])
def test_keep_ratios_on_deit_small_cost_what_is_analytic(ratio: float, total: float) -> None:
    cfg = Config.fromfile(config_file("cropr_deits_coco_multilabel")).model.backbone
    cfg.schedule.ratio = ratio
    with torch.device("meta"):
        macs = encoder_cost(CroprViT(**{k: v for k, v in cfg.items() if k != "type"}).eval()).macs
    assert round((macs.total - macs.scorers + 384 * 1000) / 1e9, 3) == total
