"""The benchmark of training steps: what it counts and what it says."""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture
def run(tool: Callable[..., str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    monkeypatch.chdir(ROOT)
    return partial(tool, "benchmarks/speed.py", "train-step")


def test_counts_of_a_segmenter_fall_with_the_cells(run: Callable[..., str], tmp_path: Path) -> None:
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


def test_times_stand_beside_what_the_counts_allow(run: Callable[..., str], tmp_path: Path) -> None:
    file = tmp_path / "step.json"
    config = str(ROOT / "configs/demo/cropr_tiny_vit_digits_cls.py")
    options = ("--rounds", "2", "--device", "cpu", "--optimizer", "--routers")
    out = run(config, *options, "--json", str(file))
    variants = ["dense", "cropr, exact", "routers", "pruned routers"]
    assert [line.split("  ")[0] for line in out.splitlines()[-7:-2]] == ["", *variants]
    record = json.loads(file.read_text())
    assert list(record["measured"]["functions"]) == variants
    assert record["counted"]["cropr, exact"]["macs"] < record["counted"]["dense"]["macs"]
    for value in record["measured"]["functions"].values():
        assert len(value["times_ms"]) == 2
    dense, _, routers, pruned = record["counted"].values()
    assert routers["macs"] == pytest.approx(dense["macs"] / 3, rel=0.03), "no backward pass"
    assert pruned["macs"] < routers["macs"]
    for one in (routers, pruned):
        memory, of_dense = (sum(c[k] for k in ("step", "optimizer")) for c in (one, dense))
        assert memory < 0.5 * of_dense


def test_configs_without_auxiliary_losses_are_refused(run: Callable[..., str]) -> None:
    with pytest.raises(SystemExit) as error:
        run(str(ROOT / "configs/demo/unpruned_tiny_vit_digits_cls.py"), "--rounds", "0")
    assert error.value.code == "error: expected a config with one CroprAuxLossHook, got 0"
