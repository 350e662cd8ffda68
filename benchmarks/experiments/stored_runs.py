"""Models that benchmarks/compare_pruners.py has trained, for what else is asked of them."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from cropr_mm.backbones.base import ReducingBackbone
from cropr_mm.engine.preflight import SetupError
from cropr_mm.inspection.recorder import check_drops
from experiments.runs import Run


def run_arguments(description: str | None) -> argparse.ArgumentParser:
    """Parser with the arguments that say which models: ``--runs`` and ``--seeds``."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument(
        "--runs",
        type=Path,
        default=Path("work_dirs/compare/det"),
        help="folder of compare_pruners.py; relative to the repository (default: %(default)s)",
    )
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2], help="default: 0 1 2")
    return parser


def stored_runs(
    folder: Path, packs: Sequence[str], names: Sequence[str], seeds: Sequence[int]
) -> list[Run]:
    """Trained models, packs first, then names, then seeds.

    Raises:
        SetupError: If one was never started, before any work.
    """
    runs = [
        Run(pack, seed, name, folder / pack / f"seed{seed}" / name)
        for pack in packs
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
    try:
        check_drops(backbone, f"{run}: a count of patches that are left")
    except ValueError as error:
        raise SetupError(str(error)) from error


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
