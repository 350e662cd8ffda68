"""Configs of the host libraries can be inherited from, on both lines."""

import subprocess
import sys
from importlib.metadata import PackageNotFoundError
from importlib.util import find_spec
from pathlib import Path

import pytest

from cropr_mm import compat

BASES = {
    "mmdet": ("faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py", "FasterRCNN"),
    "mmpretrain": ("resnet/resnet18_8xb32_in1k.py", "ImageClassifier"),
    "mmseg": ("segformer/segformer_mit-b0_8xb2-160k_ade20k-512x512.py", "EncoderDecoder"),
}


@pytest.mark.parametrize("scope", BASES)
def test_config_inherits_from_host_library(scope: str, tmp_path: Path) -> None:
    if find_spec(scope) is None:
        pytest.skip(f"{scope} is not installed")
    path, model_type = BASES[scope]
    config = tmp_path / "config.py"
    config.write_text(f'_base_ = "{scope}::{path}"\n')
    # A fresh interpreter: importing the package alone must be enough.
    script = (
        "import sys, cropr_mm; from mmengine.config import Config;"
        "print(Config.fromfile(sys.argv[1]).model.type)"
    )
    run = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script, config],
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout.split()[-1] == model_type


def test_mmseg_is_mapped_where_its_distribution_has_another_name(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def not_found(name: str) -> None:
        raise PackageNotFoundError(name)

    monkeypatch.setattr(compat, "distribution", not_found)
    monkeypatch.setattr(compat, "find_spec", lambda name: object())
    packages = {"mmseg": "mmsegmentation", "mmdet": "mmdet"}
    compat.map_mmseg(packages)
    assert packages == {"mmseg": "mmseg", "mmdet": "mmdet"}


@pytest.mark.parametrize("installed", [True, False])
def test_map_is_untouched_where_it_is_right_or_mmseg_is_absent(
    installed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lookup(name: str) -> None:
        if not installed:
            raise PackageNotFoundError(name)

    monkeypatch.setattr(compat, "distribution", lookup)
    monkeypatch.setattr(compat, "find_spec", lambda name: None)
    packages = {"mmseg": "mmsegmentation"}
    compat.map_mmseg(packages)
    assert packages == {"mmseg": "mmsegmentation"}
