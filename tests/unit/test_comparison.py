"""Comparison of pruners: fair configs, exact average precision, resumed runs, bad names."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from cropr_mm.engine.preflight import SetupError
from cropr_mm.hooks.curriculum_hook import ramp
from cropr_mm.reducers import RandomPruner, ShortcutPruner, ToMe
from cropr_mm.registry import MODELS as CROPR_MODELS
from experiments import compare, runs
from experiments.benchmark_tasks import BENCHMARK_TASKS
from experiments.comparison_report import format_tables
from experiments.detection_scores import DetectionScores
from experiments.inputs import check_inputs
from experiments.runs import PRETRAINING, Run, drops_tokens, execute, make_config
from experiments.variants import DEFAULT_VARIANTS, VARIANTS, family, same_rate

START = Path("dense.pth")


@pytest.mark.parametrize("benchmark", BENCHMARK_TASKS)
def test_variants_differ_in_pruning_alone(benchmark: str, tmp_path: Path) -> None:
    # The head, the segmenter or the optimizer of these is another one.
    others = ("dtop", "oracle", "cropr_rate")
    names = [name for name in VARIANTS if not name.startswith(others)]
    configs = {
        name: make_config(Run(benchmark, 0, name, tmp_path), BENCHMARK_TASKS[benchmark], START)
        for name in names
    }
    for cfg in configs.values():
        for key in ("reducer", "schedule", "fusion", "survivor_order", "window_rope"):
            cfg.model.backbone.pop(key, None)
        hooks = {hook["type"] for hook in cfg.pop("custom_hooks")}
        assert hooks <= {"cropr_mm.CroprAuxLossHook", "cropr_mm.CroprCurriculumHook"}
    first, *others = [cfg.to_dict() for cfg in configs.values()]
    assert all(other == first for other in others)


def test_only_learned_pruners_have_the_auxiliary_hook(tmp_path: Path) -> None:
    for name in DEFAULT_VARIANTS:
        cfg = make_config(Run("digits", 0, name, tmp_path), BENCHMARK_TASKS["digits"], START)
        assert bool(cfg.custom_hooks) == name.startswith("cropr")
        assert ("reducer" in cfg.model.backbone) == (name != "dense")


@pytest.mark.parametrize(("percent", "pruned"), [(30, 78), (86, 222), (90, 228)])
def test_a_rate_prunes_about_that_share_by_the_same_number_a_block(
    percent: int, pruned: int, tmp_path: Path
) -> None:
    """256 tokens in 6 steps, of which 30, 86 and 90 % are 77, 220 and 230."""
    for name in ("cropr", "random"):
        run = Run("digits_seg", 0, f"{name}@{percent}", tmp_path)
        cfg = make_config(run, BENCHMARK_TASKS["digits_seg"], START)
        init_default_scope("mmseg")
        encoder = MODELS.build(cfg.model.backbone)
        assert 256 - min(encoder.tokens_per_block()) == pruned
        assert encoder.tokens_per_block()[-1] == 256, "fused"


def test_more_blocks_behind_the_fusion_see_all_and_as_many_tokens_leave(tmp_path: Path) -> None:
    name = "cropr_fused3@86"
    cfg = make_config(Run("digits_seg", 0, name, tmp_path), BENCHMARK_TASKS["digits_seg"], START)
    init_default_scope("mmseg")
    encoder = MODELS.build(cfg.model.backbone)
    assert encoder.tokens_per_block() == [256, 201, 146, 91, 36, 256, 256, 256]


def test_modules_may_learn_faster(tmp_path: Path) -> None:
    run = Run("digits_seg", 0, "cropr_rate3", tmp_path)
    cfg = make_config(run, BENCHMARK_TASKS["digits_seg"], START)
    assert cfg.optim_wrapper.paramwise_cfg.custom_keys.reducers.lr_mult == 9.0, "3 times its 3"


def test_a_rate_may_leave_at_once(tmp_path: Path) -> None:
    for name in ("cropr@87b2", "random@87b2"):
        cfg = make_config(
            Run("digits_seg", 0, name, tmp_path), BENCHMARK_TASKS["digits_seg"], START
        )
        init_default_scope("mmseg")
        encoder = MODELS.build(cfg.model.backbone)
        assert encoder.tokens_per_block() == [256, 256, *[33] * 5, 256]
    with pytest.raises(SetupError, match="a step after one of blocks 1 to 6, got 7"):
        make_config(
            Run("digits_seg", 0, "cropr@87b7", tmp_path), BENCHMARK_TASKS["digits_seg"], START
        )


def test_pruners_are_compared_at_the_same_rate() -> None:
    names = ["random", "random@50", "random@87b2", "tome"]
    assert [same_rate(name, "cropr") for name in names] == [
        *("cropr", "cropr@50", "cropr@87b2", "cropr@70")
    ]
    assert [family(name) for name in names[:3]] == ["random", "random", "random, one step"]


@pytest.mark.parametrize(("benchmark", "size"), [("camvid", (144, 192)), ("trashnet", (96, 128))])
def test_small_packs_have_smaller_pictures_and_nothing_else(
    benchmark: str, size: tuple[int, int], tmp_path: Path
) -> None:
    name = f"{benchmark}_small"
    run = Run(name, 0, "cropr", tmp_path)
    cfg = make_config(run, BENCHMARK_TASKS[name], START)
    init_default_scope(cfg.default_scope)
    backbone = MODELS.build(cfg.model.backbone)
    assert backbone.img_size == size
    patches = size[0] * size[1] // 256
    assert min(backbone.num_keep().values()) == pytest.approx(0.14 * patches, abs=4)
    native = make_config(Run(benchmark, 0, "cropr@86", tmp_path), BENCHMARK_TASKS[benchmark], START)
    for one in (cfg, native):
        one.test_evaluator = one.model.backbone.schedule = None
    text = cfg.pretty_text
    for key, value in BENCHMARK_TASKS[name].overrides.items():
        old = native
        for part in key.split("."):
            old = old[int(part)] if part.isdigit() else old[part]
        assert tuple(old) != value
    native.merge_from_dict(BENCHMARK_TASKS[name].overrides)
    assert native.pretty_text == text


def test_digits_among_strokes_differ_in_their_pictures_alone(tmp_path: Path) -> None:
    texts = []
    for name in ("digits_seg", "digits_strokes"):
        benchmark = BENCHMARK_TASKS[name]
        cfg = make_config(Run(name, 0, "cropr", tmp_path), benchmark, START)
        (folder,) = benchmark.demo_data
        for loader in (cfg.train_dataloader, cfg.test_dataloader):
            assert loader.dataset.data_root.rstrip("/") == folder
            loader.dataset.data_root = None
        texts.append(cfg.pretty_text)
    assert texts[0] == texts[1]
    (plain,), (strokes,) = (
        BENCHMARK_TASKS[n].demo_data.values() for n in ("digits_seg", "digits_strokes")
    )
    assert strokes == replace(plain, stroke_contrast=180.0)


@pytest.mark.parametrize("name", ["attn_topk", "evit", "etps", "ats"])
def test_attention_is_that_of_the_class_token_where_there_is_one(name: str, tmp_path: Path) -> None:
    for benchmark, signal in (("trashnet", None), ("digits_seg", "column_mean")):
        cfg = make_config(Run(benchmark, 0, name, tmp_path), BENCHMARK_TASKS[benchmark], START)
        assert cfg.model.backbone.reducer.get("signal") == signal
        init_default_scope(cfg.default_scope)
        reducer = next(iter(MODELS.build(cfg.model.backbone).reducers.values()))
        assert reducer.signal == (signal or "cls_row")


@pytest.mark.parametrize("name", [name for name in VARIANTS if not name.startswith("oracle")])
def test_every_variant_of_a_segmenter_trains_under_its_curriculum(
    name: str, tmp_path: Path
) -> None:
    """Passes of the encoder in the first iteration, in the middle of the rise and behind it."""
    cfg = make_config(
        Run("camvid_small", 0, name, tmp_path), BENCHMARK_TASKS["camvid_small"], START
    )
    init_default_scope(cfg.default_scope)
    encoder = MODELS.build(cfg.model.backbone).train()
    for reducer in encoder.reducers.values():
        if reducer.needs_aux_loss:
            reducer.listen(lambda _: None)  # CroprAuxLossHook's part
        if isinstance(reducer, ShortcutPruner):
            reducer.fit(torch.randn(encoder.embed_dim))  # that of tools/prune.py
    hooks = [hook for hook in cfg.custom_hooks if hook.type == "cropr_mm.CroprCurriculumHook"]
    for iteration in (0, 75, 299) if hooks else (0,):
        encoder.progress = ramp(iteration, 300, 0.5) if hooks else 1.0
        first, *_ = encoder(torch.randn(2, 3, 144, 192))
        assert first.shape == (2, 192, 9, 12)
        assert bool(first.isfinite().all())
    without = name in ("dense", "sit", "patch_merger", "sinkhorn")
    assert len(hooks) == (0 if without else 1)


TARGETS = dict(
    dynamic_vit=["cropr_mm.KeepRatioTarget"],
    dtps=["cropr_mm.KeepRatioTarget"],
    dtop=["cropr_mm.PatchLabelTarget"],
    dtop_mask=["cropr_mm.PatchMaskTarget"],
    dtop_random=["cropr_mm.PatchLabelTarget"],
    dtop_variance=["cropr_mm.PatchLabelTarget"],
)


@pytest.mark.parametrize("benchmark", ["trashnet", "digits_seg"])
@pytest.mark.parametrize("name", [n for n, v in VARIANTS.items() if v.pruned and v.reducer])
def test_every_method_builds_at_the_rate_of_the_benchmark(
    benchmark: str, name: str, tmp_path: Path
) -> None:
    if name.startswith("dtop") and benchmark == "trashnet":
        with pytest.raises(SetupError, match="expected dtop with a benchmark of segmentation"):
            make_config(Run(benchmark, 0, name, tmp_path), BENCHMARK_TASKS[benchmark], START)
        return
    cfg = make_config(Run(benchmark, 0, name, tmp_path), BENCHMARK_TASKS[benchmark], START)
    init_default_scope(cfg.default_scope)
    backbone = MODELS.build(cfg.model.backbone)
    patches = backbone.grid[0] * backbone.grid[1]
    share = 0.3 if name == "tome" else 0.13
    assert min(backbone.num_keep().values()) == pytest.approx(share * patches, abs=3)
    hooks = [hook for hook in cfg.custom_hooks if hook["type"].endswith("AuxLossHook")]
    assert [hook.target.type for hook in hooks] == TARGETS.get(name, [])
    teachers = [hook.teacher.checkpoint for hook in hooks if "teacher" in hook]
    assert teachers == [str(START)] * (name in ("dynamic_vit", "dtps"))


def test_an_exit_head_learns_the_cells_of_the_encoder(tmp_path: Path) -> None:
    cfg = make_config(Run("digits_seg", 0, "dtop", tmp_path), BENCHMARK_TASKS["digits_seg"], START)
    assert cfg.model.decode_head.type == "cropr_mm.EarlyExitHead"
    assert cfg.model.decode_head.in_index == 0
    assert tuple(cfg.custom_hooks[-1].target.grid) == (16, 16)
    assert cfg.model.backbone.reducer.num_classes == cfg.model.decode_head.num_classes == 11


@pytest.mark.parametrize(
    "name", ["cropr_concat", "cropr_self_concat", "cropr_cross", "cropr_cross_concat"]
)
def test_fusions_differ_in_nothing_else(name: str, tmp_path: Path) -> None:
    cfg, plain = (
        make_config(Run("digits_seg", 0, n, tmp_path), BENCHMARK_TASKS["digits_seg"], START)
        for n in (name, "cropr")
    )
    assert cfg.model.backbone.pop("fusion") != plain.model.backbone.pop("fusion")
    assert cfg.pretty_text == plain.pretty_text


def test_rates_below_a_token_a_block_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SetupError, match=r"1 % of 256 tokens are less than one token a block"):
        make_config(
            Run("digits_seg", 0, "random@1", tmp_path), BENCHMARK_TASKS["digits_seg"], START
        )


def test_a_pretrained_encoder_is_loaded_for_the_dense_model_alone(tmp_path: Path) -> None:
    benchmark = replace(BENCHMARK_TASKS["camvid_dinov2s"], auxiliary_lr_mult=2.0)
    cold = make_config(Run("camvid_dinov2s", 0, PRETRAINING, tmp_path), benchmark, None)
    warm = make_config(Run("camvid_dinov2s", 0, "cropr", tmp_path), benchmark, START)
    assert cold.model.backbone.init_cfg.checkpoint.endswith("_saliency.safetensors")
    assert "init_cfg" not in warm.model.backbone
    keys = warm.optim_wrapper.paramwise_cfg.custom_keys
    assert keys.pop("reducers") == dict(lr_mult=2.0)
    assert keys == cold.optim_wrapper.paramwise_cfg.custom_keys
    assert keys["backbone.blocks.11."].lr_mult == 0.15


def test_missing_photos_and_weights_are_named_with_the_variable_to_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("CROPR_DATA_ROOT", "CROPR_WEIGHTS_ROOT"):
        monkeypatch.setenv(name, str(tmp_path))
    photos = rf"expected photos in {tmp_path}/camvid.*; set CROPR_DATA_ROOT to the folder that"
    with pytest.raises(SetupError, match=photos):
        compare(["camvid_dinov2s"], ["cropr"], [0], tmp_path / "out")
    (tmp_path / "camvid").mkdir()
    weights = r"weights in .*; set CROPR_WEIGHTS_ROOT to .* timm's vit_small_patch14_dinov2"
    with pytest.raises(SetupError, match=weights):
        check_inputs("camvid_dinov2s")
    (tmp_path / "vit_small_patch14_dinov2_saliency.safetensors").touch()
    check_inputs("camvid_dinov2s")


def test_pretraining_starts_from_random_weights_and_lasts_its_own_time(tmp_path: Path) -> None:
    benchmark = replace(BENCHMARK_TASKS["digits"], pretrain_iters=70, finetune_iters=50)
    cold = make_config(Run("digits", 3, PRETRAINING, tmp_path), benchmark, None)
    warm = make_config(Run("digits", 3, "dense", tmp_path), benchmark, START)
    assert cold.load_from is None
    assert warm.load_from == str(START)
    assert (cold.train_cfg.max_iters, cold.param_scheduler[1].end) == (70, 70)
    assert (warm.train_cfg.max_iters, warm.param_scheduler[1].end) == (50, 50)
    assert cold.randomness.seed == warm.randomness.seed == 3


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    """Ground truth and noisy predictions of six images, two of them without an object."""
    generator = np.random.default_rng(0)
    truth: dict = {"images": [], "annotations": [], "categories": [dict(id=i) for i in (3, 7)]}
    found = []
    for image in range(10, 16):
        truth["images"].append(dict(id=image, width=64, height=64))
        for _ in range(generator.integers(1, 4) if image < 14 else 0):
            x, y, w, h = (float(v) for v in generator.integers(4, 28, size=4))
            category = int(generator.choice([3, 7]))
            number = len(truth["annotations"]) + 1
            polygon = [[x, y, x + w, y, x + w, y + h, x, y + h]]
            truth["annotations"].append(
                dict(id=number, image_id=image, category_id=category, bbox=[x, y, w, h])
                | dict(area=w * h, iscrowd=0, segmentation=polygon)
            )
            box = [float(v) for v in np.array([x, y, w, h]) + generator.integers(0, 5, size=4)]
            found.append((image, category, box, float(generator.random())))
        found.append((image, 3, [1.0, 1.0, 9.0, 9.0], float(generator.random())))
    ann_file = tmp_path / "truth.json"
    ann_file.write_text(json.dumps(truth))
    coco = COCO(str(ann_file))
    for kind in ("bbox", "segm"):
        entries = []
        for image, category, (x, y, w, h), score in found:
            entry: dict = dict(image_id=image, category_id=category, score=score)
            if kind == "bbox":
                entry["bbox"] = [x, y, w, h]
            else:
                polygon = [[x, y, x + w, y, x + w, y + h, x, y + h]]
                rle = coco.annToRLE(dict(image_id=image, segmentation=polygon))
                entry["segmentation"] = {**rle, "counts": rle["counts"].decode()}
            entries.append(entry)
        (tmp_path / f"found.{kind}.json").write_text(json.dumps(entries))
    return ann_file, tmp_path / "found"


def test_precision_on_all_images_is_that_of_pycocotools(files: tuple[Path, Path]) -> None:
    ann_file, prefix = files
    scores = DetectionScores(ann_file, prefix)(np.arange(6))
    truth = COCO(str(ann_file))
    for name, kind in (("box AP", "bbox"), ("mask AP", "segm")):
        oracle = COCOeval(truth, truth.loadRes(f"{prefix}.{kind}.json"), kind)
        oracle.evaluate()
        oracle.accumulate()
        oracle.summarize()
        assert 0 < scores[name] < 100
        assert scores[name] == pytest.approx(100 * oracle.stats[0], abs=1e-9)


def test_a_repeated_image_counts_as_often_as_it_is_drawn(
    files: tuple[Path, Path], tmp_path: Path
) -> None:
    """As if the image and everything on it stood in the files several times."""
    ann_file, prefix = files
    drawn = np.array([2, 0, 2, 3, 4, 2])
    truth = json.loads(ann_file.read_text())
    copies: dict = {"images": [], "annotations": [], "categories": truth["categories"]}
    ids = sorted(image["id"] for image in truth["images"])
    for place, image in enumerate(drawn):
        copies["images"].append(dict(id=place, width=64, height=64))
        for annotation in truth["annotations"]:
            if annotation["image_id"] == ids[image]:
                number = len(copies["annotations"]) + 1
                copies["annotations"].append({**annotation, "id": number, "image_id": place})
    (tmp_path / "copies.json").write_text(json.dumps(copies))
    for kind in ("bbox", "segm"):
        entries = json.loads(Path(f"{prefix}.{kind}.json").read_text())
        (tmp_path / f"copied.{kind}.json").write_text(
            json.dumps(
                [
                    {**entry, "image_id": place}
                    for place, image in enumerate(drawn)
                    for entry in entries
                    if entry["image_id"] == ids[image]
                ]
            )
        )
    expected = DetectionScores(tmp_path / "copies.json", tmp_path / "copied")(np.arange(6))
    scores = DetectionScores(ann_file, prefix)
    whole = scores(np.arange(6))
    assert scores(drawn) == pytest.approx(expected)
    assert scores(drawn) != pytest.approx(whole)
    assert scores(np.arange(6)) == pytest.approx(whole), "a selection leaves no trace"


def test_detectors_without_masks_are_scored_by_boxes(files: tuple[Path, Path]) -> None:
    ann_file, prefix = files
    images, whole = np.arange(6), DetectionScores(ann_file, prefix)
    Path(f"{prefix}.segm.json").unlink()
    boxes = DetectionScores(ann_file, prefix, ["box AP"])
    assert boxes(images) == {"box AP": whole(images)["box AP"]}


def test_images_without_objects_have_no_precision(files: tuple[Path, Path]) -> None:
    assert np.isnan(list(DetectionScores(*files)(np.array([4, 5, 4])).values())).all()


def test_a_finished_run_is_not_repeated_and_one_of_another_config_stays(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    cfg = Config(dict(train_cfg=dict(max_iters=1)))
    (folder / "config.py").write_text(cfg.pretty_text)
    (folder / "result.json").write_text('{"metrics": {}}')
    run = Run("digits", 0, "dense", folder)
    execute(run, cfg)
    with pytest.raises(SetupError, match=r"digits, seed 0, dense: .* made with another config"):
        execute(run, Config(dict(train_cfg=dict(max_iters=2), model=dict(backbone=dict()))))
    assert run.result == {"metrics": {}}


def test_a_process_that_fails_is_shown(tmp_path: Path) -> None:
    run = Run("digits", 0, "dense", tmp_path / "run")
    with pytest.raises(SetupError, match=r"digits, seed 0, dense: tools/train\.py ended with code"):
        execute(run, Config(dict(train_cfg=dict(max_iters=2), model=dict(backbone=dict()))))


@pytest.mark.parametrize(
    ("backbone", "drops"),
    [
        ({}, False),
        (dict(reducer=dict(type="cropr_mm.Cropr")), True),
        (dict(reducer=dict(type="cropr_mm.KMedoids")), True),
        (dict(reducer=dict(type="cropr_mm.ToMe")), False),
        (dict(reducer=dict(type="cropr_mm.SiT")), False),
    ],
)
def test_only_models_that_drop_tokens_are_audited(backbone: dict, drops: bool) -> None:
    assert drops_tokens(Config(backbone)) == drops


def written_run(folder: Path, name: str, losses: list[float], metrics: dict) -> tuple[Run, Config]:
    """A segmenter's run as if its training and test had just ended."""
    run = Run("digits_seg", 0, name, folder / name)
    log = run.folder / "train/20260101_000000/vis_data/scalars.json"
    log.parent.mkdir(parents=True)
    lines = [dict(iter=10 * (i + 1), loss=loss, time=0.5) for i, loss in enumerate(losses)]
    log.write_text("".join(json.dumps(line) + "\n" for line in lines))
    (run.folder / "train/iter_20.pth").touch()
    (run.folder / "train/last_checkpoint").write_text(str(run.folder / "train/iter_20.pth"))
    (run.folder / "test").mkdir()
    (run.folder / "test/test_metrics.json").write_text(json.dumps(metrics))
    return run, Config(dict(train_cfg=dict(max_iters=20), model=dict(backbone=dict())))


@pytest.mark.parametrize(
    ("losses", "metrics", "reason"),
    [
        ([1.0, float("nan"), float("nan")], {"mIoU": 5.0}, "loss not finite at iteration 20"),
        ([float("inf"), 1.0], {"mIoU": 5.0}, "loss not finite at iteration 10"),
        ([1.0, 0.5], {}, "found nothing in any test image"),
        ([1.0, 0.5], {"mIoU": 5.0}, None),
    ],
)
def test_a_run_that_does_not_converge_is_recorded_unless_it_is_dense(
    losses: list[float],
    metrics: dict,
    reason: str | None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    called: list[str] = []
    monkeypatch.setattr(runs, "_call", lambda run, threads, tool, *args: called.append(tool))
    run, cfg = written_run(tmp_path, "cropr", losses, metrics)
    for _ in range(2):
        execute(run, cfg)
        assert run.failure == reason
        assert called == ["test.py"] * (metrics == {} or reason is None), "tested once if at all"
    assert run.result == {"failed": reason} if reason else run.result["metrics"] == metrics
    for name in ("dense", PRETRAINING):
        run, cfg = written_run(tmp_path, name, losses, metrics)
        if reason is None:
            execute(run, cfg)
            continue
        with pytest.raises(SetupError, match=f"{name}: did not converge: {reason}"):
            execute(run, cfg)


def test_a_run_that_was_never_started_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(SetupError, match=r"pruners\.py compare, found no .*config\.py; run it"):
        Run("digits", 0, "dense", tmp_path).check()


@pytest.mark.parametrize(
    ("benchmarks", "variants", "message"),
    [
        (["digit"], ["cropr"], "unknown benchmark digit; known: digits, person"),
        (["digits"], ["magic"], "unknown variant magic; known: dense, cropr"),
        (["digits"], ["cropr@many"], "a pruned variant at 1 to 99 percent, got cropr@many"),
        (["digits"], ["cropr@87b0"], "a block, counted from 1, behind 'b', got cropr@87b0"),
        (["digits"], ["cropr@87b"], "a block, counted from 1, behind 'b', got cropr@87b"),
        (["digits"], ["dense@50"], "a pruned variant at 1 to 99 percent, got dense@50"),
    ],
)
def test_unknown_names_are_refused(
    benchmarks: list[str], variants: list[str], message: str, tmp_path: Path
) -> None:
    with pytest.raises(SetupError, match=message):
        compare(benchmarks, variants, [0], tmp_path)


def test_a_method_of_ones_own_is_compared_by_its_class_name(tmp_path: Path) -> None:
    class Own(RandomPruner):
        """Registered below."""

    class OwnMerger(ToMe):
        """Registered below."""

    kinds = dict(Own=Own, OwnMerger=OwnMerger)
    for name, kind in kinds.items():
        CROPR_MODELS.register_module(name=name, module=kind)
    try:
        for name, fused in (("Own", True), ("OwnMerger", False)):
            run = Run("digits_seg", 0, f"{name}@50", tmp_path, ("own_module",))
            cfg = make_config(run, BENCHMARK_TASKS["digits_seg"], START)
            assert cfg.custom_imports.imports == ["own_module"]
            assert bool(cfg.model.backbone.fusion) == fused
            init_default_scope("mmseg")
            encoder = MODELS.build(cfg.model.backbone)
            assert isinstance(encoder.reducers[str(0)], kinds[name])
    finally:
        for name in kinds:
            CROPR_MODELS.module_dict.pop(name)


def test_a_module_that_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(SetupError, match=r"No module named 'own_module'; expected modules that"):
        compare(["digits"], ["cropr"], [0], tmp_path, imports=["own_module"])


def test_tables_say_when_the_machine_was_busy() -> None:
    interval = dict(value=61.04, low=58.0, high=64.0)
    ratio = dict(value=1.5, low=1.4, high=1.6)
    entry: dict = {
        metric: dict(
            per_seed=[59.0, 61.0],
            mean=interval,
            minus_dense=dict(value=-1.0, low=-3.0, high=0.5),
        )
        for metric in ("box AP", "mask AP")
    }
    entry["mask_pixels_seen"] = [0.4, 0.6]
    speed = dict(
        functions={name: dict(speedup=ratio) for name in ("dense", "random")},
        idle=False,
        load=1.25,
        threads=2,
        images_per_call=8,
        pruned_percent=dict(dense=0, random=93.75),
    )
    text = format_tables(
        {
            "digits": dict(
                metrics=["box AP", "mask AP"],
                variants={"dense": entry, "random": entry},
                seeds=[0, 1],
                encoder_speed=speed,
            )
        }
    )
    assert "NOT IDLE, load 1.25" in text
    value = "61.0 (58.0 to 64.0)"
    row = f"| random | 94 % | {value} | {value} | 60.0 | -1.0 (-3.0 to +0.5) |  | 50 | 1.50x"
    assert row in text
