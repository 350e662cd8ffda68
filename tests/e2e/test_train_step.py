"""The benchmark of training steps: what it counts and what it says."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def run(*arguments: str) -> str:
    return subprocess.run(
        [sys.executable, str(ROOT / "benchmarks/train_step.py"), *arguments],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    ).stdout


def test_counts_of_a_segmenter_fall_with_the_cells(tmp_path: Path) -> None:
    file = tmp_path / "step.json"
    out = run("--num-cells", "75", "--rounds", "0", "--device", "cpu", "--json", str(file))
    assert "measured" not in out
    counted = json.loads(file.read_text())["counted"]
    dense, exact, some = counted.values()
    # The branch falls to a quarter; the encoder and its scores cost what they did.
    encoder = exact["macs"] - (exact["macs"] - some["macs"]) / 0.75
    assert 0.5 < encoder / dense["macs"] < 0.7
    assert exact["step"] < dense["step"], "activations of the branch do not stay"
    assert some["step"] <= exact["step"]
    assert exact["weights"] > dense["weights"]


def test_times_stand_beside_what_the_counts_allow(tmp_path: Path) -> None:
    file = tmp_path / "step.json"
    config = str(ROOT / "configs/demo/cropr_tiny_vit_digits_cls.py")
    out = run(config, "--rounds", "2", "--device", "cpu", "--json", str(file), "--optimizer")
    assert [line.split("  ")[0] for line in out.splitlines()[-5:-2]] == [
        "",
        "dense",
        "cropr, exact",
    ]
    record = json.loads(file.read_text())
    assert list(record["measured"]["functions"]) == ["dense", "cropr, exact"]
    assert record["counted"]["cropr, exact"]["macs"] < record["counted"]["dense"]["macs"]
    for value in record["measured"]["functions"].values():
        assert len(value["times_ms"]) == 2


def test_configs_without_auxiliary_losses_are_refused() -> None:
    with pytest.raises(subprocess.CalledProcessError) as error:
        run(str(ROOT / "configs/demo/unpruned_tiny_vit_digits_cls.py"), "--rounds", "0")
    said = "error: expected a config with one CroprAuxLossHook, got 0\n"
    assert error.value.stderr.endswith(said)
    assert "Traceback" not in error.value.stderr
