"""Distributed training with auxiliary losses: two processes, gloo, mmengine's own wrapper."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from ddp_worker import CASES, ITERATIONS
from tiny_fcos import AUXILIARY

HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def reports(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """Train all cases in one pair of processes."""
    out = tmp_path_factory.mktemp("ddp")
    run = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    result = subprocess.run(
        [*run, str(HERE / "ddp_worker.py"), str(out)],
        capture_output=True,
        text=True,
        timeout=900,
        env={**os.environ, "PYTHONPATH": str(HERE.parents[1])},
    )
    assert result.returncode == 0, result.stdout[-2000:] + result.stderr[-6000:]
    return {case: json.loads((out / f"{case}.json").read_text()) for case in CASES}


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_gradients_are_the_mean_over_processes(
    case: str, reports: dict[str, dict[str, Any]]
) -> None:
    report = reports[case]
    steps = ITERATIONS // CASES[case]["counts"]
    assert report["between_processes"] == [0.0] * steps
    assert len(report["to_plain_copies"]) == steps
    assert max(report["to_plain_copies"]) < 1e-5
    assert min(report["smallest_auxiliary"]) > 0


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_every_process_has_its_own_auxiliary_losses(
    case: str, reports: dict[str, dict[str, Any]]
) -> None:
    first, second = reports[case]["logged"]
    assert len(first) == len(second) == ITERATIONS
    for a, b in zip(first, second, strict=True):
        for name in AUXILIARY:
            assert min(a[name], b[name]) > 0
            assert a[name] != b[name], "the processes must see different images"
