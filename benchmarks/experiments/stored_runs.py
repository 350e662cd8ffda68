"""Models that ``benchmarks/pruners.py compare`` has trained, for what else is asked of them."""

from collections.abc import Sequence
from pathlib import Path

from cropr_mm.backbones.base import ReducingBackbone
from cropr_mm.engine.preflight import SetupError, as_setup_error
from cropr_mm.inspection.recorder import check_drops
from experiments.runs import Run


def stored_runs(
    folder: Path, benchmarks: Sequence[str], names: Sequence[str], seeds: Sequence[int]
) -> list[Run]:
    """Trained models, benchmarks first, then names, then seeds.

    Raises:
        SetupError: If one was never started, before any work.
    """
    runs = [
        Run(benchmark, seed, name, folder / benchmark / f"seed{seed}" / name)
        for benchmark in benchmarks
        for name in names
        for seed in seeds
    ]
    for run in runs:
        run.check()
    return runs


def check_run_drops(run: Run, backbone: ReducingBackbone) -> None:
    """Refuse a run whose method merges tokens: no patch leaves, so none can be counted.

    Raises:
        SetupError: If it does.
    """
    with as_setup_error():
        check_drops(backbone, f"{run}: a count of patches that are left")


def failures(runs: Sequence[Run]) -> dict[str, str]:
    """Why variants did not converge, by name: those with a seed that failed, which have no scores.

    Raises:
        SetupError: If the dense model or 'cropr', which others are compared with, is one of them.
    """
    found: dict[str, list[str]] = {}
    for run in runs:
        if (run.folder / "result.json").exists() and run.failure is not None:
            found.setdefault(run.name, []).append(f"seed {run.seed}: {run.failure}")
    texts = {name: "; ".join(reasons) for name, reasons in found.items()}
    for name in ("dense", "cropr"):
        if name in texts:
            raise SetupError(f"expected {name} to have converged, got {texts[name]}")
    return texts
