"""Published recipes: what the configs say, and the learning rates that come of it."""

import re
from typing import Any

import pytest
import torch
from mmengine.config import Config
from mmengine.optim import OptimWrapper, build_optim_wrapper
from mmengine.registry import MODELS, PARAM_SCHEDULERS
from shipped_configs import CONFIGS, config_file

from cropr_mm import CroprViT
from cropr_mm.build import build_model
from cropr_mm.engine.config import load_config

EPOCH_LENGTH = 10
# Supplement of Token Cropr, tables 1 to 3: rate, decay by layer, weight decay, epochs, warm-up
# epochs, drop path, label smoothing, images in a batch, and the last rate in parts of the first.
IMAGENET = dict(wd=0.05, warmup=5, smoothing=0.1, batch=1024, lr=4e-3, last=1e-6 / 4e-3)
TABLES: dict[str, dict[str, Any]] = {
    "vitb_mae_in1k": IMAGENET | dict(decay=0.65, epochs=100, drop=0.1),
    "vitl_mae_in1k": IMAGENET | dict(decay=0.75, epochs=50, drop=0.2),
    "vitl_mae_in1k_336": IMAGENET | dict(decay=0.75, epochs=50, drop=0.2),
    "vitl_mae_in1k_448": IMAGENET | dict(decay=0.75, epochs=50, drop=0.2),
    "vith_mae_in1k": IMAGENET | dict(decay=0.75, epochs=50, drop=0.3),
    "eva02_in1k_448": dict(
        **dict(lr=2e-5, decay=0.85, wd=0.05, epochs=20, warmup=2, drop=0.15, smoothing=0.2),
        **dict(batch=512, last=None),
    ),
    "eva02_segmenter_ade20k": dict(
        **dict(lr=2e-5, decay=0.9, wd=0.05, epochs=64, warmup=0, drop=0.2, smoothing=0.0),
        **dict(batch=8, last=0.0),
    ),
}


@pytest.mark.parametrize("pruner", ["unpruned", "cropr"])
@pytest.mark.parametrize("name", TABLES)
def test_configs_say_what_the_tables_do(name: str, pruner: str) -> None:
    cfg, table = Config.fromfile(config_file(f"{pruner}_{name}")), TABLES[name]
    optimizer = cfg.optim_wrapper.optimizer
    assert optimizer.type == "AdamW"
    assert (optimizer.lr, optimizer.weight_decay) == (table["lr"], table["wd"])
    assert (optimizer.betas, optimizer.eps) == ((0.9, 0.999), 1e-8)
    assert cfg.optim_wrapper.constructor == "cropr_mm.LayerDecayConstructor"
    assert cfg.optim_wrapper.paramwise_cfg.decay_rate == table["decay"]
    assert cfg.train_cfg.max_epochs == table["epochs"]
    assert cfg.auto_scale_lr.base_batch_size == table["batch"]
    rate = cfg.model.backbone.drop_path_rate
    if isinstance(rate, list):  # the slope to the last block, which itself drops nothing
        rate = rate[-2] * (len(rate) - 1) / (len(rate) - 2)
    assert rate == pytest.approx(table["drop"])
    smoothing = (cfg.model.get("head") or {}).get("loss", {}).get("label_smooth_val", 0.0)
    assert smoothing == table["smoothing"]


@pytest.mark.parametrize("name", TABLES)
def test_rates_rise_over_the_warm_up_and_fall_to_the_last_one(name: str) -> None:
    cfg, table = Config.fromfile(config_file(f"cropr_{name}")), TABLES[name]
    rates = learning_rates(cfg)
    warm = table["warmup"] * EPOCH_LENGTH
    assert len(rates) == table["epochs"] * EPOCH_LENGTH
    assert max(rates) == pytest.approx(table["lr"], rel=0.02)
    assert rates[: warm + 1] == sorted(rates[: warm + 1])
    assert rates[warm:] == sorted(rates[warm:], reverse=True)
    if warm:
        assert rates[0] < 0.01 * table["lr"]
    if table["last"] is not None:
        # One step is left before the very last rate.
        assert rates[-1] == pytest.approx(table["last"] * table["lr"], abs=0.004 * table["lr"])


@pytest.mark.parametrize(
    ("name", "layer", "std"),
    [
        ("cropr_vitb_mae_in1k", "head.fc", 0.02),
        ("cropr_eva02_in1k_448", "head.fc", 0.02),
        ("unpruned_deits_inat19", "head.fc", 0.02),
        ("cropr_eva02_segmenter_ade20k", "decode_head.conv_seg", 2e-5),
        ("unpruned_vitl_segmenter_ade20k", "decode_head.conv_seg", 2e-5),
    ],
)
def test_heads_start_as_in_the_released_code(name: str, layer: str, std: float) -> None:
    cfg = load_config(config_file(name))
    head, name = layer.split(".")
    module = MODELS.build(cfg.model[head])
    module.init_weights()
    linear = module.get_submodule(name)
    assert linear.weight.std().item() == pytest.approx(std, rel=0.03)
    assert not linear.bias.any()


FEW_GPUS = re.compile("dinov[23][bl]_|eva02[bl]_upernet|eomt_coco")
RECIPES = [
    path.relative_to(CONFIGS).as_posix()
    for path in sorted(CONFIGS.rglob("*.py"))
    if "_base_" not in path.parts and "auto_scale_lr" in Config.fromfile(path)
]


@pytest.mark.parametrize("name", RECIPES)
def test_a_step_has_as_many_images_as_the_recipe(name: str) -> None:
    cfg = Config.fromfile(CONFIGS / name)
    gpus = 2 if FEW_GPUS.search(name) else 1 if "ade20k" in name else 8
    images = gpus * cfg.train_dataloader.batch_size
    images *= cfg.optim_wrapper.get("accumulative_counts", 1)
    assert images == cfg.auto_scale_lr.base_batch_size


def learning_rates(cfg: Config) -> list[float]:
    """Rate of every iteration, with epochs of few iterations."""
    optimizer = torch.optim.SGD(
        [torch.nn.Parameter(torch.zeros(1))], lr=cfg.optim_wrapper.optimizer.lr
    )
    wrapper = OptimWrapper(optimizer)
    schedulers = []
    for entry in cfg.param_scheduler:
        settings = dict(entry)
        kind = PARAM_SCHEDULERS.get(settings.pop("type"))
        assert settings.pop("convert_to_iter_based")
        schedulers.append(
            kind.build_iter_from_epoch(optimizer=wrapper, epoch_length=EPOCH_LENGTH, **settings)
        )
    rates = []
    for _ in range(cfg.train_cfg.max_epochs * EPOCH_LENGTH):
        rates.append(optimizer.param_groups[0]["lr"])
        for scheduler in schedulers:
            scheduler.step()
    return rates


def test_heads_of_dtop_learn_ten_times_as_fast_as_its_encoder() -> None:
    pytest.importorskip("mmseg")
    cfg = load_config(str(config_file("dtop_vitl_segmenter_ade20k")))
    with torch.device("meta"):
        model = build_model(cfg)
    parts = ("constructor", "optimizer", "paramwise_cfg")  # mixed precision wants a GPU
    wrapper = dict(type="OptimWrapper", **{key: cfg.optim_wrapper[key] for key in parts})
    groups = build_optim_wrapper(model, wrapper).optimizer.param_groups
    rates = {id(p): group["lr"] for group in groups for p in group["params"]}
    heads = ("backbone.reducers.", "decode_head.")
    for name, parameter in model.named_parameters():
        assert rates[id(parameter)] == pytest.approx(2e-4 if name.startswith(heads) else 2e-5), name


def test_weight_decay_spares_the_tokens_that_dinov3_has() -> None:
    cfg = load_config(str(CONFIGS / "segmentation/unpruned_dinov3b_upernet_ade20k.py"))
    arch = dict(embed_dim=8, depth=1, num_heads=2, pos_embed=False, num_registers=4)
    names = [name for name, _ in CroprViT(arch=arch).named_parameters()]
    keys = cfg.optim_wrapper.paramwise_cfg.custom_keys
    assert {"cls_token", "reg_token", "norm"} == set(keys)
    assert all(any(key in name for name in names) for key in keys)
