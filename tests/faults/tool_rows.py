"""Faults in what the command-line tools are given."""

from collections.abc import Callable
from pathlib import Path

import torch
from row import Row
from run_tool import run_tool
from tiny import tiny_config

from cropr_mm.build import build_model
from cropr_mm.engine.config import load_config
from cropr_mm.engine.work_folder import lock_folder


def _weights(folder: Path, config: Path) -> Path:
    """Checkpoint of random weights of a config's model."""
    model = build_model(load_config(str(config)))
    torch.save(dict(meta={}, state_dict=model.state_dict()), folder / "weights.pth")
    return folder / "weights.pth"


def _config(name: str, *args: object) -> Callable[[Path], None]:
    """A tool, its config, and then these arguments."""
    return lambda folder: run_tool(name, tiny_config(folder, "cls"), *args)


def _with_weights(name: str, *args: str) -> Callable[[Path], None]:
    """A tool, its config, weights that fit it, and then these arguments; {} is the folder."""

    def run(folder: Path) -> None:
        config = tiny_config(folder, "cls")
        given = (arg.format(folder) for arg in args)
        run_tool(name, config, _weights(folder, config), *given)

    return run


def _missing_config(folder: Path) -> None:
    run_tool("train.py", folder / "none.py")


def _unknown_option(folder: Path) -> None:
    run_tool("train.py", tiny_config(folder, "cls"), "--epochs", 5)


def _not_mae(folder: Path) -> None:
    torch.save(dict(model=dict(w=torch.ones(1))), folder / "a.pth")
    run_tool("convert_checkpoint.py", folder / "a.pth", folder / "b.pth", "--source", "mae")


def _converted_twice(folder: Path) -> None:
    for name in ("a.pth", "b.pth"):
        torch.save(dict(model=dict(w=torch.ones(1))), folder / name)
    run_tool("convert_checkpoint.py", folder / "a.pth", folder / "b.pth", "--source", "mae")


def _two_names(folder: Path) -> None:
    config = tiny_config(folder, "cls")
    pair = (config, _weights(folder, config))
    run_tool("analyze_tokens.py", *pair, "--names", "..", "--out", folder / "out")


def _script_tags(folder: Path) -> str:
    attack = "</script><script>alert(1)</script>"
    config = tiny_config(folder, "cls")
    page = folder / "page.html"
    image = folder / "cls/disc/0.png"
    weights = _weights(folder, config)
    run_tool("visualize.py", config, weights, image, "--names", attack, "--out", page)
    assert attack not in page.read_text()
    assert "alert(1)" in page.read_text()
    return "the name is text in the page"


def _shared_folder(folder: Path) -> None:
    config = tiny_config(folder, "cls")
    (folder / "run").mkdir()
    with lock_folder(folder / "run"):
        run_tool("train.py", config, "--work-dir", folder / "run")


TOOLS = "Command lines"
ROWS = [
    Row(name, TOOLS, fault, says, run)
    for name, fault, says, run in (
        (
            "tool-config",
            "train.py, a missing config",
            r"expected a config file, found none at .*none\.py",
            _missing_config,
        ),
        (
            "tool-option",
            "train.py, an unknown option",
            "unrecognized arguments: --epochs",
            _unknown_option,
        ),
        (
            "tool-cfg-options",
            "train.py, an option without a value",
            "KEY=VALUE, got x",
            _config("train.py", "--cfg-options", "x"),
        ),
        (
            "tool-cfg-list",
            "train.py, an index that is not there",
            "expected custom_hooks=",
            _config("train.py", "--cfg-options", "custom_hooks.7.type=A"),
        ),
        (
            "tool-amp",
            "train.py --amp on a CPU, with mmengine's optimizer wrapper",
            "--amp on a CPU expects optim_wrapper.type=cropr_mm.CroprOptimWrapper",
            _config("train.py", "--amp"),
        ),
        (
            "tool-resume",
            "train.py --resume of a missing file",
            r"expected a checkpoint file, found none at .*none\.pth",
            _config("train.py", "--resume", "none.pth"),
        ),
        (
            "tool-launcher",
            "train.py --launcher pytorch, started alone",
            "launcher 'pytorch' expects .* not set: RANK",
            _config("train.py", "--launcher", "pytorch"),
        ),
        (
            "tool-test-missing",
            "test.py, a missing checkpoint",
            r"expected a checkpoint file, found none at .*none\.pth",
            _config("test.py", "none.pth"),
        ),
        (
            "tool-test-suffix",
            "test.py --out of another kind",
            r"--out expects a file name that ends in \.pkl",
            _with_weights("test.py", "--out", "{}/a.json"),
        ),
        (
            "tool-rounds",
            "test.py --benchmark --rounds 0",
            "expected rounds >= 1 and warmup >= 0, got 0",
            _with_weights("test.py", "--work-dir", "{}/t", "--benchmark", "--rounds", "0"),
        ),
        (
            "tool-size-huge",
            "complexity.py --img-size 1000000",
            "the memory is too small",
            _config("complexity.py", "--img-size", 1000000, 1000000),
        ),
        (
            "tool-size-negative",
            "complexity.py --img-size -16",
            "img_size must be one or two whole numbers",
            _config("complexity.py", "--img-size", -16, -16),
        ),
        (
            "tool-size-odd",
            "complexity.py --img-size 60 60",
            "multiples of the patch size 8, got 60x60",
            _config("complexity.py", "--img-size", 60, 60),
        ),
        (
            "tool-json",
            "complexity.py --json into a missing folder",
            "--json expects a file in a folder that exists",
            _config("complexity.py", "--json", "/none/a.json"),
        ),
        (
            "tool-benchmark-huge",
            "benchmark.py --img-size 1000000",
            "the memory is too small",
            _config("benchmark.py", "--img-size", 1000000, 1000000, "--rounds", 1),
        ),
        (
            "tool-benchmark-negative",
            "benchmark.py --img-size -16",
            "img_size must be one or two whole numbers",
            _config("benchmark.py", "--img-size", -16, -16, "--rounds", 1),
        ),
        (
            "tool-deploy-out",
            "deploy.py, the result is a folder",
            "expected another file for the result",
            _with_weights("deploy.py", "{}/cls"),
        ),
        (
            "tool-convert",
            "convert_checkpoint.py, not of this source",
            r"a\.pth: expected a masked autoencoder .* without its names",
            _not_mae,
        ),
        (
            "tool-convert-out",
            "convert_checkpoint.py, the result exists",
            "expected a new file for the result, but .* exists",
            _converted_twice,
        ),
        (
            "tool-image",
            "visualize.py, a missing image",
            r"expected an image file, found none at .*none\.png",
            _with_weights("visualize.py", "{}/none.png"),
        ),
        (
            "tool-no-image",
            "visualize.py, a text for an image",
            "expected an image file that OpenCV reads",
            _with_weights("visualize.py", "{}/weights.pth"),
        ),
        (
            "tool-device",
            "visualize.py --device gpu",
            "--device gpu: expected a device that is there",
            _with_weights("visualize.py", "{}/cls/disc/0.png", "--device", "gpu"),
        ),
        (
            "tool-names",
            "analyze_tokens.py --names ..",
            "expected names that can be folders in --out",
            _two_names,
        ),
    )
]
ROWS += [
    Row("tool-folder", TOOLS, "two trainings in a folder", "another training", _shared_folder),
    Row(
        "tool-script",
        TOOLS,
        "visualize.py, a name with script tags",
        "page  ",
        _script_tags,
        "recovered",
    ),
]
