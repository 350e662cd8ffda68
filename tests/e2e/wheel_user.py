"""What a user does with an installed package: run from an empty folder, outside of the checkout.

Arguments: the folder that the package is installed to, a config of a tiny classifier, and a folder
of demo configs.
"""

import importlib
import pkgutil
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import torch
from mmengine.config import Config

import cropr_mm


def check_imports(installed: Path) -> None:
    """Import every module from the installed folder and from nowhere else."""
    for name in modules():
        module = importlib.import_module(name)
        assert Path(str(module.__file__)).is_relative_to(installed), module.__file__
        print("imported", name)


def modules() -> Iterator[str]:
    """Names of the package and of all that it holds."""
    yield "cropr_mm"
    for module in pkgutil.walk_packages(cropr_mm.__path__, "cropr_mm."):
        yield module.name


def encode() -> None:
    """Encode an image with a pruned encoder."""
    encoder = cropr_mm.CroprViT(
        arch=dict(embed_dim=16, depth=5, num_heads=2, patch_size=8),
        img_size=64,
        reducer=dict(type="cropr_mm.Cropr", num_classes=2),
        schedule=dict(type="cropr_mm.ConstantRate", rate=16),
        fusion=dict(type="cropr_mm.LastLayerFusion"),
    ).eval()
    with torch.no_grad():
        (features,) = encoder(torch.zeros(1, 3, 64, 64))
    assert features.shape == (1, 16, 8, 8), features.shape


def report(config: Path) -> None:
    """Count the multiply-adds of a config's model."""
    from cropr_mm.profiling import complexity_report, format_complexity

    print(format_complexity(complexity_report(Config.fromfile(config))))


def deploy(config: Path) -> None:
    """Strip a training checkpoint."""
    from cropr_mm.build import build_model
    from cropr_mm.export.deploy import deploy_checkpoint

    cfg = Config.fromfile(config)
    torch.save({"state_dict": build_model(cfg).state_dict()}, "train.pth")
    deploy_checkpoint(cfg, "train.pth", "deployed.pth")
    assert Path("deployed.pth").stat().st_size < Path("train.pth").stat().st_size


def page() -> None:
    """Make a page of no image: the style, the script and the frame are files of the package."""
    from cropr_mm.visualization.page import Page, page_html

    html = page_html(Page([]).data())
    assert "<script" in html
    assert "@STYLE@" not in html


def demo(configs: Path) -> None:
    """Run the demo of a config that lies anywhere; two iterations miss its threshold."""
    from cropr_mm.demo import TASKS, run_demo

    task = replace(TASKS["cls"], config="short.py")
    base = str(configs / TASKS["cls"].config)
    few = "test_dataloader = dict(batch_size=2, dataset=dict(indices=8))"
    (configs / task.config).write_text(f"_base_ = {base!r}\ntrain_cfg = dict(max_iters=2)\n{few}\n")
    assert run_demo(task, configs, "work") == 1
    assert Path("work/demo.json").is_file()


if __name__ == "__main__":
    installed, config, configs = map(Path, sys.argv[1:])
    check_imports(installed)
    encode()
    report(config)
    deploy(config)
    page()
    demo(configs)
    print("all done")
