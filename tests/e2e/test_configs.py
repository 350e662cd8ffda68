"""Every config under configs/: it builds at full size and trains when shrunk."""

import json
import math
import re
from pathlib import Path
from typing import Any
from unittest import mock

import mmdet  # noqa: F401 - fills its registries
import pytest
import torch
from mmdet.datasets import CocoDataset
from mmengine.config import Config
from mmengine.registry import init_default_scope
from panoptic_digits import write_panoptic
from shipped_configs import config_file
from shrink_classifier import shrink_classifier, use_class_data
from shrink_detector import shrink_detector
from shrink_segmenter import shrink_segmenter, use_label_maps
from torch import nn

from cropr_mm.backbones.find import auxiliary_reducers, find_backbones
from cropr_mm.build import build_model
from cropr_mm.datasets import DemoSettings, make_demo_data
from cropr_mm.engine.config import load_config
from cropr_mm.engine.preflight import SetupError
from cropr_mm.engine.preflight.data import check_data
from cropr_mm.engine.train import train
from cropr_mm.profiling.candidates import native_size
from experiments.training_batch import random_training_batch
from experiments.whole_model import whole_model

ROOT = Path(__file__).parents[2] / "configs"
CONFIGS = sorted(
    path.relative_to(ROOT).as_posix()
    for path in ROOT.rglob("*.py")
    if "_base_" not in path.relative_to(ROOT).parts
)
HOSTS = {f"cropr_mm.{name}" for name in ("CroprViT", "CroprPVT", "CroprCvT")}
# Dense twins and larger siblings of recipes, shrunk, differ from them by little.
NEAR = re.compile(
    r"unpruned_(dinov|eva02._upernet)|_dinov.l_(?!eomt_coco.py)|_dinov2b_eomt|_eva02l_upernet"
)
PANOPTIC = [name for name in CONFIGS if name.endswith("_panoptic.py")]


def test_there_are_configs() -> None:
    assert len(CONFIGS) >= 60


@pytest.mark.parametrize("name", CONFIGS)
def test_is_named_and_prefixed_as_agreed(name: str) -> None:
    parts = Path(name).stem.split("_")
    assert len(parts) >= 3, "method_backbone_framework_dataset or method_backbone_dataset"
    cfg = Config.fromfile(ROOT / name)
    assert "custom_imports" not in cfg
    assert cfg.model.backbone.type in HOSTS
    assert ("reducer" in cfg.model.backbone) == (parts[0] != "unpruned")


@pytest.mark.parametrize("name", CONFIGS)
def test_builds_on_meta(name: str) -> None:
    cfg = Config.fromfile(ROOT / name)
    model = build_on_meta(cfg)
    assert all(parameter.is_meta for parameter in model.parameters())
    backbone = next(iter(find_backbones(model).values()))
    counts = backbone.tokens_per_block()
    schedule = cfg.model.backbone.get("schedule") or {}
    drops = "reducer" in cfg.model.backbone and schedule.get("ratio") != 1.0  # or only masks
    assert (min(counts) < counts[0]) == drops


@pytest.mark.parametrize("name", [name for name in CONFIGS if Path(name).name.startswith("cropr_")])
def test_pruned_config_is_its_unpruned_twin_plus_pruning(name: str) -> None:
    pruned = Config.fromfile(ROOT / name)
    twin = Config.fromfile(ROOT / twin_of(name))
    for key in ("reducer", "schedule", "fusion"):
        pruned.model.backbone.pop(key, None)
    assert pruned.model == twin.model
    for key in ("optim_wrapper", "param_scheduler", "train_dataloader", "test_dataloader"):
        assert pruned[key] == twin[key]


def twin_of(name: str) -> str:
    """The dense config; variants of a pruned one share it."""
    twin = name.replace("cropr_", "unpruned_", 1)
    while not (ROOT / twin).exists():
        assert "_" in twin, f"{name} has no dense twin"
        twin = f"{twin.rpartition('_')[0]}.py"
    return twin


@pytest.mark.parametrize("name", [name for name in CONFIGS if name not in PANOPTIC])
def test_boxes_that_a_crop_left_without_area_are_filtered(name: str) -> None:
    pipeline = Config.fromfile(ROOT / name).train_dataloader.dataset.pipeline
    steps = [step.type for step in pipeline]
    if any(step.get("recompute_bbox") for step in pipeline):
        after = steps[steps.index("RandomCrop") :]
        assert "FilterAnnotations" in after, "the logarithm of their sides is infinite"


def test_coco_config_keeps_the_published_tokens() -> None:
    cfg = Config.fromfile(config_file("cropr_eva02_cascade_coco"))
    backbone = build_on_meta(cfg).backbone
    assert backbone.num_keep() == {4: 6400, 7: 4096, 10: 2304, 13: 1024, 19: 256}
    assert sorted(backbone.global_block_indexes) == [2, 5, 8, 11, 14, 17, 20, 23]
    assert backbone.tokens_per_block()[-1] == 96 * 96


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("eva02b_cascade", {1: 48**2, 4: 32**2, 7: 16**2}),
        ("vitb_maskrcnn", {1: 11 * 14**2, 4: 5 * 14**2, 7: 14**2}),  # of 20 windows
    ],
)
def test_1024_pixels_keep_whole_windows(name: str, expected: dict[int, int]) -> None:
    backbone = build_on_meta(Config.fromfile(config_file(f"cropr_{name}_coco"))).backbone
    assert backbone.num_keep() == expected
    assert sorted(backbone.global_block_indexes) == [2, 5, 8, 11]
    assert backbone.tokens_per_block()[-1] == 64 * 64


@pytest.mark.parametrize(
    "name",
    ["eva02_cascade_coco", "eva02b_cascade_coco", "eva02_segmenter_ade20k", "vitl_mae_in1k"],
)
@pytest.mark.parametrize("method", ["random", "variance", "attn_topk"])
def test_other_pruners_differ_from_cropr_by_reducer_and_auxiliary_loss(
    name: str, method: str
) -> None:
    cropr = Config.fromfile(config_file(f"cropr_{name}"))
    other = Config.fromfile(config_file(f"{method}_{name}"))
    assert cropr.custom_hooks.pop().type == "cropr_mm.CroprAuxLossHook"
    for cfg in (cropr, other):
        del cfg.model.backbone["reducer"]
        cfg.model.backbone.pop("out_type", None)  # Attn Top-K classifies the class token
    assert other.to_dict() == cropr.to_dict()


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[pytest.mark.slow] if NEAR.search(name) else []) for name in CONFIGS],
)
def test_shrunk_config_trains_and_validates(
    name: str, data: Path, tmp_path: Path, capfd: pytest.CaptureFixture
) -> None:
    cfg = load_config(str(ROOT / name), str(tmp_path / "work"))
    original = build_on_meta(cfg)
    cfg.model.backbone.pop("init_cfg", None)  # of the full size
    if cfg.model.type == "ImageClassifier":
        shrink_classifier(cfg.model)
        use_class_data(cfg, data, tmp_path)
    elif cfg.model.type == "EncoderDecoder":
        shrink_segmenter(cfg.model)
        use_label_maps(cfg, data, tmp_path)
    else:
        shrink_detector(cfg.model)
        if name in PANOPTIC:
            pytest.importorskip("panopticapi")
            use_panoptic_data(cfg, data, tmp_path)
        else:
            use_data(cfg, data, tmp_path)
    shrink_schedule(cfg)
    shrunk = build_on_meta(cfg)
    assert reducer_types(shrunk) == reducer_types(original)
    assert type(shrunk.backbone.schedule) is type(original.backbone.schedule)

    train(cfg, strategy="ddp")  # one process has no shards

    assert "end of the dataloader" not in "".join(capfd.readouterr()), "waits after each epoch"
    lines = [
        json.loads(line)
        for file in (tmp_path / "work").rglob("scalars.json")
        for line in file.read_text().splitlines()
    ]
    values: dict[str, float] = {key: value for line in lines for key, value in line.items()}
    losses = {key for key in values if key.startswith(("loss", "decode.loss", "aux.loss"))}
    assert all(math.isfinite(values[key]) for key in losses)
    detector = {"loss_rpn_cls" if "rpn_head" in cfg.model else "loss_cls"}
    segmenter = {"decode.loss_cls" if "mask_queries" in cfg.model.backbone else "decode.loss_ce"}
    main = dict(mmdet=detector, mmseg=segmenter, mmpretrain=set())
    assert {"loss"} | main[cfg.default_scope] <= losses
    expected = {
        f"loss_{reducer.auxiliary.task}_b{block:02d}"
        for block, reducer in auxiliary_reducers(shrunk.backbone).items()
    }
    assert {key for key in losses if re.fullmatch(r"loss_\w+_b\d\d", key)} == expected
    assert metrics(cfg) <= set(values)


def metrics(cfg: Config) -> set[str]:
    """Names of what validation must report."""
    if cfg.default_scope == "mmpretrain":
        multi = cfg.model.head.type == "MultiLabelLinearClsHead"
        return {"multi-label/mAP"} if multi else {"accuracy/top1"}
    if cfg.default_scope == "mmseg":
        return {"mIoU"}
    if isinstance(cfg.val_evaluator, list):
        return {"coco_panoptic/PQ"}
    asked = cfg.val_evaluator.metric
    return {f"coco/{kind}_mAP" for kind in ([asked] if isinstance(asked, str) else asked)}


def test_as_many_classes_as_lvis_train_and_validate(data: Path, tmp_path: Path) -> None:
    cfg = load_config(str(config_file("cropr_eva02_cascade_coco")), str(tmp_path / "work"))
    shrink_detector(cfg.model)
    shrink_schedule(cfg)
    for loader in (cfg.train_dataloader, cfg.val_dataloader):
        loader.dataset.metainfo = dict(classes=tuple(f"class {i}" for i in range(1203)))
    count_classes([cfg.model, *cfg.custom_hooks], 1203)
    use_data(cfg, data, tmp_path)

    train(cfg)

    weights = torch.load(tmp_path / "work/iter_2.pth", weights_only=False)["state_dict"]
    assert weights["roi_head.bbox_head.2.fc_cls.weight"].shape[0] == 1204
    assert weights["roi_head.mask_head.conv_logits.weight"].shape[0] == 1203
    assert weights["backbone.reducers.4.auxiliary.head.weight"].shape[0] == 1203


def count_classes(cfg: Any, number: int) -> None:
    """Set every number of classes below a config."""
    for value in cfg.values() if isinstance(cfg, dict) else cfg:
        if isinstance(value, dict | list):
            count_classes(value, number)
    if isinstance(cfg, dict) and "num_classes" in cfg:
        cfg["num_classes"] = number


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("digits") / "data"
    make_demo_data(out, DemoSettings(num_train=2, num_val=2))  # an epoch of one batch
    return out


def build_on_meta(cfg: Config) -> nn.Module:
    return build_model(cfg, "meta")


def reducer_types(model: nn.Module) -> dict[str, type]:
    return {block: type(reducer) for block, reducer in model.backbone.reducers.items()}


def shrink_schedule(cfg: Config) -> None:
    if cfg.train_cfg.get("type") == "IterBasedTrainLoop":
        cfg.train_cfg = dict(type="IterBasedTrainLoop", max_iters=2, val_interval=2)
    else:
        cfg.train_cfg = dict(type="EpochBasedTrainLoop", max_epochs=2, val_interval=2)
    cfg.default_hooks.logger.interval = 1
    cfg.visualizer.pop("name", None)  # mmengine keeps one visualizer per name and process
    cfg.param_scheduler = []
    if cfg.optim_wrapper.type == "cropr_mm.CroprAmpOptimWrapper":  # for accelerators only
        cfg.optim_wrapper.type = "cropr_mm.CroprOptimWrapper"
        for key in ("dtype", "loss_scale"):
            cfg.optim_wrapper.pop(key, None)


def use_data(cfg: Config, data: Path, folder: Path) -> None:
    """Put digits in the place of the config's data, under the names of its classes."""
    size = cfg.model.backbone.img_size
    for split in ("train", "val"):
        loader = cfg[f"{split}_dataloader"]
        loader.update(batch_size=2, num_workers=0, persistent_workers=False)
        dataset = loader.dataset
        classes = (dataset.get("metainfo") or CocoDataset.METAINFO)["classes"]
        content = json.loads((data / f"annotations/instances_{split}.json").read_text())
        content["categories"] = [dict(id=i + 1, name=n) for i, n in enumerate(classes)]
        for annotation in content["annotations"]:
            annotation["category_id"] = (annotation["category_id"] - 1) % len(classes) + 1
        file = folder / f"{split}.json"
        file.write_text(json.dumps(content))
        dataset.update(
            data_root="", ann_file=str(file), data_prefix=dict(img=str(data / "images" / split))
        )
        resize(dataset.pipeline, size)
    cfg.val_evaluator.ann_file = str(folder / "val.json")
    for key in ("test_dataloader", "test_evaluator", "test_cfg"):
        cfg[key] = None


def use_panoptic_data(cfg: Any, data: Path, folder: Path) -> None:
    """The same with the background as stuff."""
    (metric,) = cfg.val_evaluator
    cfg.val_evaluator = dict()
    use_data(cfg, data, folder)
    for split in ("train", "val"):
        file, maps = folder / f"panoptic_{split}.json", folder / f"panoptic_{split}"
        write_panoptic(folder / f"{split}.json", file, maps)
        dataset = cfg[f"{split}_dataloader"].dataset
        dataset.ann_file = str(file)
        dataset.data_prefix.seg = str(maps)
    cfg.val_evaluator = [dict(metric, ann_file=str(file), seg_prefix=str(maps))]


def test_a_list_of_segments_is_not_read_as_one_of_boxes(data: Path, tmp_path: Path) -> None:
    cfg = Config.fromfile(ROOT / PANOPTIC[0])
    init_default_scope(cfg.default_scope)
    shrink_detector(cfg.model)
    use_panoptic_data(cfg, data, tmp_path)
    check_data(cfg, ["train", "val"])
    (tmp_path / "panoptic_train.json").unlink()
    with pytest.raises(SetupError, match="expected an annotation file, found none at"):
        check_data(cfg, ["train"])


@pytest.mark.parametrize("variant", ["dense", "cropr"])
@pytest.mark.parametrize("name", [name for name in PANOPTIC if "/cropr_" in name])
def test_panoptic_models_learn_without_panopticapi(name: str, variant: str) -> None:
    cfg = Config.fromfile(ROOT / name)
    shrink_detector(cfg.model)
    model = whole_model(cfg, variant).train()
    model.init_weights()
    batch = random_training_batch(cfg, 1, native_size(cfg), 3)
    assert 132 in batch["data_samples"][0].gt_sem_seg.sem_seg, "stuff"
    batch = model.data_preprocessor(batch, training=True)
    with mock.patch.dict("sys.modules", panopticapi=None):
        loss, _ = model.parse_losses(model(**batch, mode="loss"))
    loss.backward()
    assert math.isfinite(loss)
    assert all(p.grad is not None for p in model.backbone.parameters() if p.requires_grad)
    with torch.no_grad():
        (sample, *_) = model.eval()(**batch, mode="predict")
    assert sample.pred_panoptic_seg.sem_seg.shape[1:] == sample.ori_shape


def resize(steps: Any, size: int) -> None:
    """Set every size below a pipeline, nested ones too."""
    for value in steps.values() if isinstance(steps, dict) else steps:
        if isinstance(value, dict | list):
            resize(value, size)
    if isinstance(steps, dict):
        steps.update({key: (size, size) for key in steps if key in ("scale", "crop_size")})
        steps.update({key: [(size, size)] for key in steps if key == "scales"})


def test_no_config_takes_hooks_of_its_base_by_their_place() -> None:
    found = [p.name for p in ROOT.rglob("*.py") if "custom_hooks[" in p.read_text()]
    assert found == []
