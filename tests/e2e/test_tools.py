"""The command-line tools, run as users run them, on a tiny config of each host library."""

import json
import os
import pickle
import re
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import safetensors.torch
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from tiny_tasks import write_config
from torch import nn

from cropr_mm.engine.options import enable_amp
from cropr_mm.engine.preflight import device

ROOT = Path(__file__).parents[2]


LOSS_HOOK = dict(type="cropr_mm.CroprAuxLossHook", target=dict(type="cropr_mm.MultiLabelTarget"))
METRICS = dict(det="coco/bbox_mAP", seg="mIoU", cls="accuracy/top1")


@pytest.mark.parametrize("task", METRICS)
def test_trains_tests_benchmarks_and_draws(task: str, root: Path, tool: Callable[..., str]) -> None:
    config, work_dir = write_config(root, task), root / f"work_{task}"
    output = tool("train.py", config, "--work-dir", work_dir)
    checkpoint = work_dir / "iter_2.pth"
    assert output.splitlines()[-4].startswith("Trained. Files:")
    assert f"last checkpoint  {checkpoint}" in output
    assert "Config:" not in output, "the config belongs to the log file"
    assert "Config:" in next(work_dir.glob("*/*.log")).read_text()
    assert len(output.splitlines()) < 60, output

    predictions, pictures = root / f"{task}.pkl", root / f"pictures_{task}"
    output = tool(
        *("test.py", write_config(root, task), checkpoint, "--work-dir", work_dir, "--benchmark"),
        *("--rounds", 2, "--out", predictions, "--show-dir", pictures),
    )
    metrics = json.loads((work_dir / "test_metrics.json").read_text())
    assert METRICS[task] in metrics
    assert len(pickle.loads(predictions.read_bytes())) == 4
    assert len([*pictures.rglob("*.png")]) == 4
    assert "speed-up (95 %)" in output
    for file in (work_dir / "test_metrics.json", predictions, pictures):
        assert str(file) in output

    timing = json.loads((work_dir / "benchmark.json").read_text())
    assert timing["tokens_per_block"] == [65, 48, 32, 16, 65]
    assert timing["tokens_per_block_dense"] == [65] * 5
    assert (timing["batch_size"], timing["img_size"]) == (2, [64, 64])
    for part in ("encoder", "model"):
        functions = timing[part]["functions"]
        assert set(functions) == {"dense", "pruned"}
        assert functions["dense"]["speedup"]["value"] == 1.0
        assert len(functions["pruned"]["times_ms"]) == 2
    host = dict(det="mmdet", seg="mmseg", cls="mmpretrain")[task]
    assert {host, "mmcv", "mmengine", "torch"} <= set(timing["versions"])
    for name in ("dense", "pruned"):
        parts = timing["parts"][name]
        assert all(parts[part]["median_ms"] > 0 for part in timing["parts"]["contain"])
        assert timing["floor"][name]["ms"] > 0
        assert timing["macs"]["model"][name]["not_counted"] == {}


def test_classes_are_said_once(root: Path, tool: Callable[..., str]) -> None:
    reducer = dict(_delete_=True, type="cropr_mm.Cropr")
    config = write_config(root, "det", model__backbone__reducer=reducer, custom_hooks=[LOSS_HOOK])
    counts = re.findall(r"num_classes=(\d+)", config.read_text())
    assert counts == ["2"], "that of the head"
    work_dir = root / "once"
    tool("train.py", config, "--work-dir", work_dir)
    weights = torch.load(work_dir / "iter_2.pth", weights_only=False)["state_dict"]
    assert len(weights["backbone.reducers.0.auxiliary.head.bias"]) == 2
    assert "Tested." in tool("test.py", config, work_dir / "iter_2.pth", "--work-dir", work_dir)


def test_resumes_the_latest_checkpoint(root: Path, tool: Callable[..., str]) -> None:
    work_dir = root / "resumed"
    output = tool("train.py", write_config(root, "cls"), "--work-dir", work_dir, "--resume")
    assert f"Nothing to resume in {work_dir}" in output
    more = ("--cfg-options", "train_cfg.max_iters=4")
    config = write_config(root, "cls")
    output = tool("train.py", config, "--work-dir", work_dir, "--resume", *more)
    assert (work_dir / "iter_4.pth").is_file()
    assert "Iter(train) [3/4]" in output
    assert "Iter(train) [1/4]" not in output


def test_checkpoint_of_another_model_is_refused(root: Path, tool: Callable[..., str]) -> None:
    config = write_config(root, "cls")
    checkpoint = root / "other.pth"
    torch.save(dict(state_dict=dict(unknown=torch.zeros(1))), checkpoint)
    with pytest.raises(
        SystemExit, match=r"(?s)error: .*other.pth is not a checkpoint of this"
    ) as end:
        tool("test.py", config, checkpoint, "--work-dir", root / "refused")
    assert "1 others are there" in str(end.value)
    assert "unknown" in str(end.value)
    assert "backbone.blocks.0.attn.proj.weight" in str(end.value)
    assert len(str(end.value).splitlines()) < 20


def test_deployed_checkpoint_is_recognized(root: Path, tool: Callable[..., str]) -> None:
    config = write_config(root, "det")
    model = tiny_model(config)
    model.backbone.switch_to_deploy()
    torch.save(dict(state_dict=model.state_dict()), root / "deployed.pth")
    args = ("test.py", config, root / "deployed.pth", "--work-dir", root / "deployed")
    with pytest.raises(SystemExit, match=r"add --cfg-options model\.backbone\.deploy=True"):
        tool(*args)
    assert "Tested." in tool(*args, "--cfg-options", "model.backbone.deploy=True")


def tiny_model(config: Path) -> nn.Module:
    cfg = Config.fromfile(config)
    init_default_scope(cfg.default_scope)
    return MODELS.build(cfg.model)


def test_training_starts_from_the_encoder_of_another_task(
    root: Path, tool: Callable[..., str]
) -> None:
    source = tiny_model(write_config(root, "cls")).state_dict()
    source["head.fc.bias"] = torch.zeros(7)
    for name in [name for name in source if ".reducers." in name]:
        del source[name]
    torch.save(dict(state_dict=source), root / "encoder.pth")
    config, work_dir = write_config(root, "det", load_from=str(root / "encoder.pth")), root / "fine"
    frozen = ("--cfg-options", "optim_wrapper.optimizer.lr=0.0")
    output = tool("train.py", config, "--work-dir", work_dir, *frozen)
    assert output.count("keep their initial values: backbone.reducers.") == 1
    assert "2 are not used: head.fc.bias, head.fc.weight" in output
    trained = torch.load(work_dir / "iter_2.pth", weights_only=False)["state_dict"]
    encoder = [name for name in source if name.startswith("backbone.")]
    assert all(torch.equal(trained[name], source[name]) for name in encoder)


def test_training_does_not_start_from_another_encoder(root: Path, tool: Callable[..., str]) -> None:
    file = root / "load_from.pth"
    weights = tiny_model(write_config(root, "cls")).state_dict()
    total = sum(name.startswith("backbone.") for name in weights)
    name = "backbone.blocks.0.attn.qkv.weight"
    cases = [
        (
            {f"encoder.{name}": value for name, value in weights.items()},
            rf"{total} of its {total} weights are missing, 0 under its name are unexpected\n"
            r"  missing in the checkpoint +unexpected in the checkpoint\n"
            r"  backbone\.\S+ +encoder\.backbone\.",
        ),
        (
            {k: v for k, v in weights.items() if k != name},
            rf"1 of its {total} weights are missing, 0 .*\n.*\n  {name}  -\n",
        ),
        (
            {**weights, "backbone.blocks.5.norm1.bias": torch.ones(16)},
            r"0 of its .* 1 under its name .*\n.*\n  - +backbone\.blocks\.5\.norm1\.bias\n",
        ),
        ({**weights, name: torch.ones(2)}, rf"{name}: expected \(48, 16\), got \(2,\)"),
    ]
    for wrong, message in cases:
        torch.save(dict(state_dict=wrong), file)
        config = write_config(root, "cls", load_from=str(file))
        with pytest.raises(SystemExit, match=message) as end:
            tool("train.py", config, "--work-dir", root / "unfit")
        assert str(end.value).startswith("error: ")
        assert "expected a checkpoint whose encoder backbone is that of this" in str(end.value)


def test_training_does_not_start_from_turned_positions(
    root: Path, tool: Callable[..., str]
) -> None:
    wide = write_config(root, "cls", model__backbone__img_size=(64, 128))
    meta = dict(cfg=Config.fromfile(wide).pretty_text)
    torch.save(dict(meta=meta, state_dict=tiny_model(wide).state_dict()), root / "wide.pth")
    changes = dict(model__backbone__img_size=(128, 64), load_from=str(root / "wide.pth"))
    with pytest.raises(SystemExit, match="expected positions of 16x8 patches, got 8x16"):
        tool("train.py", write_config(root, "cls", **changes), "--work-dir", root / "turned")


def test_resuming_is_strict_however_it_is_asked_for(root: Path, tool: Callable[..., str]) -> None:
    config, file = write_config(root, "cls"), root / "headless.pth"
    weights = {k: v for k, v in tiny_model(config).state_dict().items() if "head" not in k}
    torch.save(dict(meta=dict(epoch=0, iter=1), state_dict=weights), file)
    options = ("--cfg-options", "resume=True", f"load_from={file}")
    with pytest.raises(SystemExit, match=r"2 of the model.s 68 tensors are missing"):
        tool("train.py", config, "--work-dir", root / "resume_options", *options)


@pytest.mark.parametrize("use", ["load_from", "init_cfg", "test"])
def test_checkpoint_that_holds_code_or_is_damaged_ends_in_one_line(
    use: str, root: Path, tool: Callable[..., str]
) -> None:
    file, work_dir = root / f"{use}.pth", root / f"file_{use}"
    changes = {
        "load_from": dict(load_from=str(file)),
        "init_cfg": dict(model__backbone__init_cfg=dict(type="Pretrained", checkpoint=str(file))),
        "test": {},
    }
    for content, message in (
        (eval, "could run code: it asks for .*eval"),
        (None, "not a readable"),
        ("text", "expected a file of torch or safetensors, got another kind"),
    ):
        torch.save(dict(state_dict=content), file)
        if content is None:
            file.write_bytes(file.read_bytes()[:200])
        if content == "text":
            file.write_text("each of these words is text")
        config = write_config(root, "cls", **changes[use])
        args = ("test.py", config, file) if use == "test" else ("train.py", config)
        with pytest.raises(SystemExit, match=message) as end:
            tool(*args, "--work-dir", work_dir)
        assert str(end.value).startswith("error: ")
        assert len(str(end.value).splitlines()) == 1


def test_bad_input_ends_in_one_line_before_training(root: Path) -> None:
    wrong = dict(train_dataloader__dataset__metainfo=dict(classes=("disc", "bx")))
    config = write_config(root, "det", **wrong)
    env = dict(os.environ, PYTHONPATH=str(ROOT), OMP_NUM_THREADS="1")
    command = [sys.executable, str(ROOT / "tools/train.py"), str(config), "--work-dir", str(root)]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.splitlines() == [
        f"error: train_dataloader: {root}/det.json lacks 1 of the dataset's 2 classes (bx); "
        "it has disc, box; set metainfo=dict(classes=...)"
    ]


@pytest.mark.slow
def test_two_processes_train_together(root: Path) -> None:
    config, work_dir = write_config(root, "cls"), root / "together"
    env = dict(os.environ, PYTHONPATH=str(ROOT), OMP_NUM_THREADS="1", PYTHON=sys.executable)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))  # the system picks a free one
        env.update(CUDA_VISIBLE_DEVICES="", PORT=str(probe.getsockname()[1]))
    command = ["bash", str(ROOT / "tools/dist_train.sh"), str(config), "2"]
    command += ["--work-dir", str(work_dir)]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("Trained. Files:") == 1, "one process speaks"
    assert "GPU number: 2" in next(work_dir.glob("*/*.log")).read_text()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(model__backbone__img_size=60), "must be multiples of the patch size 8, got 60x60"),
        (dict(model__backbone__depht=3), "unexpected keyword argument 'depht'"),
        (dict(model__backbone__schedule__rate=40), "ConstantRate"),
        (dict(model__bbox_head__num_classes=3), "bbox_head has num_classes=3, but the dataset"),
        (dict(train_dataloader=None), "expected entries train_dataloader, got none"),
        (dict(custom_hooks=[]), "the model has Cropr modules that nothing trains"),
        (
            dict(custom_hooks=[LOSS_HOOK, dict(LOSS_HOOK, loss_weight=0.5)]),
            "expected one CroprAuxLossHook in custom_hooks, got 2",
        ),
        (
            dict(custom_hooks=[LOSS_HOOK, *2 * [dict(type="cropr_mm.CroprCurriculumHook")]]),
            "expected one CroprCurriculumHook in custom_hooks, got 2",
        ),
        (
            dict(model__backbone__schedule__type="cropr_mm.Absent"),
            "cropr_mm.Absent is not in the",
        ),
        (
            dict(custom_hooks=[], model__backbone__reducer__type="cropr_mm.NonSalient"),
            "the model has NonSalient modules that nothing trains",
        ),
        (
            dict(custom_imports=dict(imports=["absent_pruner"])),
            "No module named 'absent_pruner'; modules named in custom_imports are looked for",
        ),
        (
            dict(
                model__backbone__reducer=dict(_delete_=True, type="cropr_mm.SiT"),
                model__backbone__fusion=None,
                model__backbone__schedule__rate=8,
                custom_hooks=[dict(type="cropr_mm.CroprCurriculumHook", by_epoch=False)],
            ),
            "and cannot leave more: CroprCurriculumHook expects a method without slots",
        ),
        (
            dict(custom_hooks__0__target__num_classes=5),
            "CroprAuxLossHook has num_classes=5, but the training dataset has 2 classes",
        ),
        (
            dict(train_dataloader__dataset__filter_cfg=dict(min_size=65)),
            "train_dataloader: expected at least one image after filtering, got none from",
        ),
    ],
)
def test_bad_config_is_named(
    changes: dict, message: str, root: Path, tool: Callable[..., str]
) -> None:
    config = write_config(root, "det", **changes)
    with pytest.raises(SystemExit, match=re.escape(message)) as end:
        tool("train.py", config, "--work-dir", root / "bad")
    assert str(end.value).startswith("error: ")


def test_a_refused_training_leaves_the_earlier_one_where_it_is(
    root: Path, tool: Callable[..., str], tmp_path: Path
) -> None:
    (tmp_path / "iter_1.pth").touch()
    loss = dict(type="cropr_mm.CroprAuxLossHook", target=dict(type="cropr_mm.MultiLabelTarget"))
    hooks = [loss, dict(type="cropr_mm.CroprElasticHook")]
    config = write_config(root, "det", custom_hooks=hooks, optim_wrapper__accumulative_counts=2)
    with pytest.raises(SystemExit, match="accumulative_counts of 1 or a multiple of 3"):
        tool("train.py", config, "--work-dir", tmp_path)
    assert (tmp_path / "iter_1.pth").exists()


def test_evaluator_of_another_data_set_is_named_before_training(
    root: Path, tool: Callable[..., str]
) -> None:
    content = json.loads((root / "det.json").read_text())
    for number, category in enumerate(content["categories"]):
        category["name"] = f"cat{number}"
    (root / "cats.json").write_text(json.dumps(content))
    config = write_config(root, "det", val_evaluator__ann_file=str(root / "cats.json"))
    with pytest.raises(SystemExit, match=r"val_evaluator\.ann_file expects .*got categories cat0"):
        tool("train.py", config, "--work-dir", root / "bad")


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("train.py", "absent.py"), "expected a config file, found none at absent.py"),
        (("complexity.py", "absent.py"), "expected a config file, found none at absent.py"),
        (("train.py", "CONFIG", "--resume", "no.pth"), "checkpoint file, found none at no.pth"),
        (
            ("train.py", "CONFIG", "--amp"),
            "--amp on a CPU expects optim_wrapper.type=cropr_mm.CroprOptimW",
        ),
        (
            ("train.py", "CONFIG", "--cfg-options", "optim_wrapper.type=AmpOptimWrapper"),
            "optim_wrapper.type=AmpOptimWrapper trains in mixed precision and expects an accel",
        ),
        (("test.py", "CONFIG", "no.pth"), "expected a checkpoint file, found none at no.pth"),
        (("test.py", "CONFIG", "CONFIG", "--out", "a.json"), "ends in .pkl, got a.json"),
        (("complexity.py", "CONFIG", "--img-size", "60", "64"), "patch size 8, got 60x64"),
        (
            ("test.py", "CONFIG", "CONFIG", "--benchmark", "--rounds", "0"),
            "expected rounds >= 1 and warmup >= 0, got 0",
        ),
        (
            (
                *("test.py", "CONFIG", "CONFIG", "--benchmark", "--cfg-options"),
                "test_dataloader.batch_size=5",
            ),
            "expected at least 5 test images (test_dataloader.batch_size), got 4",
        ),
    ],
)
def test_bad_arguments_are_named(
    args: tuple[str, ...],
    message: str,
    root: Path,
    tool: Callable[..., str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = str(write_config(root, "det"))
    monkeypatch.setattr("cropr_mm.engine.options.get_device", lambda: "cpu")
    with pytest.raises(SystemExit, match=re.escape(message)):
        tool(*(config if arg == "CONFIG" else arg for arg in args))


@pytest.mark.parametrize(
    ("side", "message"),
    [
        (
            60,
            "must be multiples of the patch size 8, got 60x60 pixels (in the data preprocessor",
        ),
        (4, "must be multiples of the patch size 8, got 4x4 pixels"),
        (16, "ConstantRate"),
        (128, None),
    ],
)
def test_images_of_another_size_fit_or_are_named(
    side: int, message: str | None, root: Path, tool: Callable[..., str]
) -> None:
    config = write_config(root, "det", test_dataloader__dataset__pipeline__1__scale=(side, side))
    checkpoint = root / "random.pth"
    torch.save(dict(state_dict=tiny_model(config).state_dict()), checkpoint)
    args = ("test.py", config, checkpoint, "--work-dir", root / f"side_{side}")
    if message is None:
        assert "Tested." in tool(*args)
        return
    with pytest.raises(SystemExit, match=re.escape(message)) as end:
        tool(*args)
    assert str(end.value).startswith("error: ")
    assert len(str(end.value).splitlines()) == 1


def test_mask_head_without_masks_is_named_before_training(
    root: Path, tool: Callable[..., str]
) -> None:
    config = root / "masks.py"
    data = dict(data_root=str(root), ann_file="det.json", data_prefix=dict(img="det/"))
    cfg = Config.fromfile(ROOT / "configs/detection/unpruned_tiny_cascade_coco_person.py")
    cfg.train_dataloader.dataset.update(**data, metainfo=dict(classes=("disc", "box")))
    cfg.dump(config)
    with pytest.raises(SystemExit, match=r"but 4 of 4 annotations in .*det\.json have no segment"):
        tool("train.py", config, "--work-dir", root / "masks")


def test_mixed_precision_keeps_the_clip_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cropr_mm.engine.options.get_device", lambda: "cuda")
    for kind, expected in (
        ("cropr_mm.CroprOptimWrapper", "cropr_mm.CroprAmpOptimWrapper"),
        ("OptimWrapper", "AmpOptimWrapper"),
        ("AmpOptimWrapper", "AmpOptimWrapper"),
    ):
        cfg = Config(dict(optim_wrapper=dict(type=kind)))
        enable_amp(cfg)
        assert cfg.optim_wrapper.type == expected
    cfg.optim_wrapper.type = "Mine"
    with pytest.raises(ValueError, match="got Mine"):
        enable_amp(cfg)


def test_complexity_prints_and_writes_what_was_counted(
    root: Path, tool: Callable[..., str]
) -> None:
    config, file = write_config(root, "det"), root / "complexity.json"
    size = "model.backbone.img_size=(64,128)"
    output = tool("complexity.py", config, "--json", file, "--cfg-options", size)
    report = json.loads(file.read_text())
    assert report["cfg_options"] == {"model.backbone.img_size": [64, 128]}
    assert report["img_size"] == [64, 128]
    tokens = [block["tokens"] for block in report["encoder"]["blocks"]]
    assert tokens == [129, 112, 96, 80, 129]
    assert set(report["model"]["parts"]) == {"backbone", "neck", "bbox_head"}
    assert report["model"]["not_counted"] == {}
    assert report["model"]["parts"]["backbone"]["macs_linear"] == report["encoder"]["macs_linear"]
    for part in ("encoder", "model"):
        assert 0 < report[part]["macs_linear"] < report[part]["macs_total"]
        assert report[part]["params_deployed"] < report[part]["params_trained"]
    assert report["model"]["macs_linear"] > report["encoder"]["macs_linear"]
    rows = [words[:2] for line in output.splitlines() if (words := line.split())]
    assert [row for row in rows if row[0].isdigit()] == [
        [str(i), str(count)] for i, count in enumerate(tokens, start=1)
    ]


def test_bare_weights_are_averaged_and_loaded(root: Path, tool: Callable[..., str]) -> None:
    config = write_config(
        root, "cls", custom_hooks=[dict(type="EMAHook", momentum=0.5)], load_from=None
    )
    weights = tiny_model(config).state_dict()
    file = root / "bare.safetensors"
    safetensors.torch.save_file({k: v.contiguous() for k, v in weights.items()}, str(file))
    output = tool(
        *("train.py", config, "--work-dir", root / "bare", "--cfg-options", f"load_from={file}")
    )
    assert f"Load checkpoint from {file}" in output
    output = tool("test.py", config, file, "--work-dir", root / "bare_test")
    assert "Tested." in output


@pytest.mark.parametrize("name", ["..", ".", "a/b"])
def test_names_of_models_stay_in_the_folder(
    name: str, root: Path, tool: Callable[..., str], tmp_path: Path
) -> None:
    config = write_config(root, "cls")
    (tmp_path / "x.pth").touch()
    names = (name, "a_b")
    models = (config, tmp_path / "x.pth", config, tmp_path / "x.pth")
    with pytest.raises(SystemExit, match=r"names that can be folders|names of different folders"):
        tool("analyze_tokens.py", *models, "--names", *names, "--out", tmp_path / "out")
    assert sorted(file.name for file in tmp_path.iterdir()) == ["x.pth"]


@pytest.mark.parametrize(
    ("options", "says"), [((), "a GPU is there, but"), (("--device", "cpu"), "data/coco")]
)
@pytest.mark.parametrize("program", ["train.py", "test.py"])
def test_the_gpu_is_looked_for_before_data(
    tool: Callable[..., str],
    program: str,
    options: tuple[str, ...],
    says: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The data of this config do not exist, and torch cannot use the GPU that the machine shows."""
    (tmp_path / "nvidia0").touch()
    monkeypatch.setattr(device, "_DEVICES", (tmp_path / "nvidia0",))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    config = ROOT / "configs/cropr_eva02_cascade_coco.py"
    (tmp_path / "weights.pth").touch()
    weights = [tmp_path / "weights.pth"] if program == "test.py" else []
    with pytest.raises(SystemExit, match=says):
        tool(program, config, *weights, "--work-dir", tmp_path / "run", *options)
