"""The prune audit as users run it, against a raster of everything."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from mmengine.config import Config
from tiny_tasks import write_config, write_images

from cropr_mm.build import build_model
from cropr_mm.engine.config import load_config
from cropr_mm.engine.evaluate import evaluate
from cropr_mm.engine.preflight import SetupError
from cropr_mm.inspection.recorder import PruningRecorder

ROOT = Path(__file__).parents[2]
HALF = dict(test_dataloader__dataset__pipeline__1__scale=(32, 32))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write_images(tmp_path)
    return tmp_path


def checkpoint(config: Path, root: Path) -> str:
    """Random weights of a config."""
    torch.manual_seed(0)
    torch.save(dict(state_dict=build_model(Config.fromfile(config)).state_dict()), root / "a.pth")
    return str(root / "a.pth")


def expected_shares(config: Path, weights: str) -> np.ndarray:
    """Share of each box that the second to fourth block see, by pixels; (objects, 3)."""
    cfg = Config.fromfile(config)
    model = build_model(cfg).eval()
    model.load_state_dict(torch.load(weights)["state_dict"])
    root = cfg.test_dataloader.dataset.data_root
    shares = []
    for box in json.loads(Path(root, "det.json").read_text())["annotations"]:
        image = cv2.resize(cv2.imread(f"{root}/det/{box['image_id']}.png"), (32, 32))
        image = torch.from_numpy(image).permute(2, 0, 1)[None]
        with PruningRecorder(model.backbone) as recorder, torch.no_grad():
            model.backbone((image - 128.0) / 64.0)
        cells = recorder.maps()[0].numpy().repeat(16, 0).repeat(16, 1)  # of the original image
        x, y, width, height = box["bbox"]
        inside = cells[y : y + height, x : x + width]
        shares.append([((inside < 0) | (inside >= block)).mean() for block in (1, 2, 3)])
    return np.array(shares)


def test_audit_agrees_with_a_raster_of_every_pixel(root: Path) -> None:
    changes = dict(HALF, model__backbone__schedule__rate=4)
    config = write_config(root, "det", **changes)
    weights, work_dir = checkpoint(config, root), root / "work"
    metrics = evaluate(load_config(str(config), str(work_dir)), weights, audit=True)
    record = json.loads((work_dir / "audit.json").read_text())
    shares = expected_shares(config, weights)
    assert 0 < shares.mean() < 1, "the test would see nothing"
    everything = record["audit"]["all"]
    assert everything["boxes"] == 4
    np.testing.assert_allclose(everything["box_area_pruned"][1:4], 1 - shares.mean(0))
    np.testing.assert_allclose(everything["boxes_lost"][1:4], (shares == 0).mean(0))
    assert everything["box_area_pruned"][0] == everything["box_area_pruned"][4] == 0
    assert {name: g["boxes"] for name, g in record["audit"]["class"].items()} == dict(disc=2, box=2)
    assert record["audit"]["size"]["small"]["boxes"] == 4, "24 x 24 pixels of the original image"
    assert record["sizes_from"] == "area of the annotation"
    grid = (4, 4)  # of the images, and not of the 64 x 64 pixels that the encoder is made for
    counts = np.array(build_model(Config.fromfile(config)).backbone.tokens_per_block(grid))
    tokens = record["audit"]["patch_tokens"]
    assert tokens["least"] == tokens["most"] == tokens["mean"]
    assert tokens["mean"] == (counts - counts[0] + 16).tolist(), "without prefix"
    assert record["ap"]["small"]["AP box"] == metrics["coco/bbox_mAP_s"]
    assert (work_dir / "audit.png").is_file()


def test_what_cannot_be_audited_is_named_before_the_test(root: Path) -> None:
    dense = dict.fromkeys(("reducer", "schedule", "fusion"))
    cases = [
        (
            write_config(root, "det", **{f"model__backbone__{k}": v for k, v in dense.items()}),
            "expected a model with a pruned backbone, got FCOS without",
        ),
        (write_config(root, "seg"), "expects ground-truth boxes .* got none in 4 images"),
    ]
    content = json.loads((root / "det.json").read_text())
    (root / "bare.json").write_text(json.dumps(content | dict(annotations=[])))
    bare = dict(test_dataloader__dataset__ann_file="bare.json")
    cases.append((write_config(root, "det", **bare), "expects ground-truth boxes .* CocoDataset"))
    few = dict(test_dataloader__dataset__pipeline__2__meta_keys=("ori_shape", "img_shape"))
    message = "reads img_path, scale_factor of each data sample: .* meta_keys of PackDetInputs"
    cases.append((write_config(root, "det", **few), message))
    for config, message in cases:
        cfg = load_config(str(config), str(root / "work"))
        with pytest.raises(SetupError, match=message):
            evaluate(cfg, checkpoint(config, root), audit=True)


@pytest.mark.slow
def test_two_processes_join_what_they_saw(root: Path) -> None:
    config = write_config(root, "det")
    weights = checkpoint(config, root)
    evaluate(load_config(str(config), str(root / "one")), weights, audit=True)
    env = dict(os.environ, PYTHONPATH=str(ROOT), OMP_NUM_THREADS="1", PYTHON=sys.executable)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))  # the system picks a free one
        env.update(CUDA_VISIBLE_DEVICES="", PORT=str(probe.getsockname()[1]))
    command = ["bash", str(ROOT / "tools/dist_test.sh"), str(config), weights, "2", "--audit"]
    command += ["--work-dir", str(root / "two")]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    one, two = (json.loads((root / name / "audit.json").read_text()) for name in ("one", "two"))
    assert two == one
