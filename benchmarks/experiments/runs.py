"""One training with its test, in processes of their own, resumable.

Every run has a folder with its complete ``config.py``, so that it can be repeated by hand with
``tools/train.py`` and ``tools/test.py``.
"""

import json
import math
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from mmengine.config import Config
from mmengine.runner import find_latest_checkpoint
from timm.layers import to_2tuple

from cropr_mm.checkpoints.atomic import replacing
from cropr_mm.engine.preflight import SetupError
from cropr_mm.layers.arch import resolve_arch
from cropr_mm.reducers import AttentionRanker, MergingReducer, TokenReducer
from cropr_mm.registry import MODELS
from experiments.benchmark_tasks import BENCHMARK_TASKS, WARMUP_ITERS, BenchmarkTask
from experiments.scores import TASKS
from experiments.variants import SHORTCUTS, VARIANTS, find_variant

ROOT = Path(__file__).resolve().parents[2]
PRETRAINING = "pretraining"


@dataclass(frozen=True)
class Run:
    """A training with its test.

    Attributes:
        benchmark: Name of the benchmark.
        seed: Seed of the random numbers.
        name: A variant, or 'pretraining' for the dense model that all variants start from.
        folder: Folder for all output.
        imports: Modules of the user's own that the configs import.
    """

    benchmark: str
    seed: int
    name: str
    folder: Path
    imports: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.benchmark}, seed {self.seed}, {self.name}"

    @property
    def config(self) -> Path:
        """Complete config, outside the working folders: mmengine writes its own copy there."""
        return self.folder / "config.py"

    def check(self) -> None:
        """Whether there is anything to read.

        Raises:
            SetupError: If the run was not started.
        """
        if not self.config.exists():
            raise SetupError(
                f"expected the models of benchmarks/pruners.py compare, found no {self.config}; "
                "run it first, without --records and into a new folder, or name its folder by "
                "--runs"
            )

    @property
    def checkpoint(self) -> Path:
        """Latest checkpoint.

        Raises:
            SetupError: If there is none.
        """
        found = find_latest_checkpoint(str(self.folder / "train"))
        if found is None:
            raise SetupError(f"expected a checkpoint in {self.folder / 'train'}, found none")
        return Path(found)

    @property
    def result(self) -> dict[str, Any]:
        """Metrics and seconds per iteration of a finished run; of a detector, mask pixels seen.

        Of one that did not converge only 'failed', which says why.
        """
        return json.loads((self.folder / "result.json").read_text())

    @property
    def failure(self) -> str | None:
        """Why a finished run did not converge; None if it did."""
        return self.result.get("failed")

    @property
    def metrics(self) -> str:
        """The metrics of a finished run that say most, in the unit of their library."""
        values = self.result["metrics"]
        names = [name for name in values if name.endswith(("_mAP", "mIoU", "mAP", "top1"))]
        return ", ".join(f"{name} {values[name]:.3f}" for name in names)

    @property
    def log(self) -> list[dict[str, Any]]:
        """What training logged, in order: losses by name, 'iter' and 'time'."""
        lines = [
            json.loads(line)
            for file in sorted(self.folder.glob("train/*/vis_data/scalars.json"))
            for line in file.read_text().splitlines()
        ]
        return [line for line in lines if "loss" in line]


def make_config(run: Run, benchmark: BenchmarkTask, start: Path | None) -> Config:
    """Config of one run.

    Args:
        run: The run.
        benchmark: Its benchmark.
        start: Checkpoint to fine-tune from; None trains from random weights, or from those that
            the benchmark's config names.

    Raises:
        SetupError: If the benchmark's configs do not have the parts that are changed here.
    """
    variant = VARIANTS["dense"] if run.name == PRETRAINING else find_variant(run.name)
    cfg = Config.fromfile(ROOT / (benchmark.pruned if variant.pruned else benchmark.dense))
    cfg.merge_from_dict(benchmark.overrides)
    backbone = cfg.model.backbone
    backbone.update(variant.backbone)
    hooks = cfg.get("custom_hooks") or []
    if variant.reducer is not None:
        backbone.reducer = variant.reducer
        kind = MODELS.get(variant.reducer["type"])
        assert kind is not None, "variants name registered methods"
        assert issubclass(kind, TokenReducer), "and no other parts"
        if issubclass(kind, AttentionRanker) and not _has_class_token(backbone):
            backbone.reducer.signal = "column_mean"
        removed = {"cropr_mm.CroprAuxLossHook"}
        if kind.fixed_slots:
            removed.add("cropr_mm.CroprCurriculumHook")
        hooks = [hook for hook in hooks if hook["type"] not in removed]
        if variant.target is not None:
            hooks.append(dict(type="cropr_mm.CroprAuxLossHook", target=variant.target))
    elif variant.target is not None:
        (hook,) = (hook for hook in hooks if hook["type"] == "cropr_mm.CroprAuxLossHook")
        hook.target = dict(variant.target)
    if variant.taught:
        teacher = dict(checkpoint=str(start), logits=TASKS[benchmark.task].logits)
        hooks[-1] = dict(hooks[-1], teacher=teacher)
    percent = variant.percent or benchmark.percent
    if variant.pruned and percent:
        backbone.schedule = _schedule(backbone, percent, variant.after)
    if variant.options:
        backbone.reducer.update(variant.options)
    cfg.custom_hooks = [hook for hook in hooks if hook["type"] != "cropr_mm.PruningMapHook"]
    if variant.adapt is not None:
        variant.adapt(cfg)
    iters = benchmark.pretrain_iters if start is None else benchmark.finetune_iters
    cfg.train_cfg.max_iters = iters
    warmup, decay = cfg.param_scheduler
    warmup.end = decay.begin = WARMUP_ITERS
    decay.end = iters
    if start is not None:
        cfg.load_from = str(start)
        backbone.pop("init_cfg", None)
        cfg.optim_wrapper.optimizer.lr = benchmark.finetune_lr
        mult = benchmark.auxiliary_lr_mult * variant.auxiliary_lr_mult
        if mult != 1.0:
            rates = cfg.optim_wrapper.paramwise_cfg
            rates.custom_keys = {**rates.get("custom_keys", {}), "reducers": dict(lr_mult=mult)}
    # Several runs share the cores: no worker processes, one test at the end.
    for loader in (cfg.train_dataloader, cfg.test_dataloader):
        loader.num_workers = 0
        loader.pop("persistent_workers", None)
    cfg.val_dataloader = cfg.val_evaluator = cfg.val_cfg = None
    cfg.default_hooks.checkpoint.interval = 100
    cfg.randomness = dict(seed=run.seed)
    if run.imports:
        known = (cfg.get("custom_imports") or {}).get("imports", [])
        cfg.custom_imports = dict(imports=[*known, *run.imports])
    TASKS[benchmark.task].record(cfg, run.folder)
    return cfg


def execute(run: Run, cfg: Config, threads: int = 1, trainable: str = "all") -> None:
    """Train and test unless that is done; go on where it was interrupted.

    A run whose loss became infinite or NaN, or whose model finds nothing, is recorded as failed.

    Args:
        run: The run.
        cfg: Its config.
        threads: Threads of torch; with others a run may differ in the last bits.
        trainable: As in tools/train.py: 'all', or the 'routers' alone.

    Raises:
        SetupError: If the folder holds a run of another config, a process fails (with the last
            lines of its output), or a dense model, which all others need, did not converge.
    """
    _begin(run, cfg)
    if (run.folder / "result.json").exists():
        return
    train = run.folder / "train"
    if not (train / f"iter_{cfg.train_cfg.max_iters}.pth").exists():
        options = ["--work-dir", str(train), "--resume", "--trainable", trainable]
        if (fitted := fit_shortcuts(run, cfg, threads)) is not None:
            options += ["--cfg-options", f"load_from={fitted}"]
        _call(run, threads, "train.py", str(run.config), *options)
    lines = run.log
    lost = [line["iter"] for line in lines if not math.isfinite(line["loss"])]
    if lost:
        _give_up(run, f"loss not finite at iteration {lost[0]}")
        return
    result = _test(run, cfg, run.checkpoint, threads)
    if result is not None:
        seconds = median(line["time"] for line in lines)
        times = dict(seconds_per_iteration=seconds, iterations=cfg.train_cfg.max_iters)
        _write(run, {**result, **times})


def _begin(run: Run, cfg: Config) -> None:
    """Write the config, unless the folder is of the same one.

    Raises:
        SetupError: If it is of another one.
    """
    text = cfg.pretty_text
    if run.config.exists() and run.config.read_text() != text:
        raise SetupError(
            f"{run}: {run.folder} was made with another config than now; expected a new folder "
            "(--out), or remove that one"
        )
    run.folder.mkdir(parents=True, exist_ok=True)
    run.config.write_text(text)


def fit_shortcuts(run: Run, cfg: Config, threads: int = 1) -> Path | None:
    """Fit the shortcuts of a pruned model to the dense one that it starts from, if not done yet.

    Args:
        run: The run.
        cfg: Its config.
        threads: Threads of torch.

    Returns:
        Checkpoint to go on from; None for a model without shortcuts.

    Raises:
        SetupError: If the folder holds a run of another config, or the process fails (with the last
            lines of its output).
    """
    if (cfg.model.backbone.get("fusion") or {}).get("type") != SHORTCUTS:
        return None
    _begin(run, cfg)
    folder = run.folder / "shortcuts"
    if not (folder / "model.pth").exists():
        _call(run, threads, "prune.py", str(run.config), cfg.load_from, str(folder))
    return folder / "model.pth"


def execute_test(run: Run, cfg: Config, checkpoint: Path, threads: int = 1) -> None:
    """Test a checkpoint of another run in a config, unless that is done.

    Args:
        run: The run; its folder gets the result, without times.
        cfg: Its config.
        checkpoint: Weights of exactly this model.
        threads: Threads of torch.

    Raises:
        SetupError: If the folder holds a run of another config, or the process fails (with the last
            lines of its output).
    """
    _begin(run, cfg)
    if (run.folder / "result.json").exists():
        return
    result = _test(run, cfg, checkpoint, threads)
    if result is not None:
        _write(run, result)


def _test(run: Run, cfg: Config, checkpoint: Path, threads: int) -> dict[str, Any] | None:
    """Metrics, of a detector also mask pixels seen; None where the model finds nothing."""
    detects = BENCHMARK_TASKS[run.benchmark].task == "det"
    audited = detects and drops_tokens(cfg.model.backbone)
    audit = ["--audit"] if audited else []
    test = run.folder / "test"
    arguments = (str(run.config), str(checkpoint), "--work-dir", str(test), *audit)
    _call(run, threads, "test.py", *arguments)
    metrics = json.loads((test / "test_metrics.json").read_text())
    if not metrics:
        _give_up(run, "found nothing in any test image")
        return None
    result: dict[str, Any] = dict(metrics=metrics)
    if detects:
        result["mask_pixels_seen"] = _mask_pixels_seen(test / "audit.json") if audited else 1.0
    return result


def _give_up(run: Run, reason: str) -> None:
    """Record that a run did not converge; without a dense model there is nothing to compare."""
    if run.name in (PRETRAINING, "dense"):
        raise SetupError(f"{run}: did not converge: {reason}")
    _write(run, dict(failed=reason))


def _write(run: Run, result: dict[str, Any]) -> None:
    with replacing(run.folder / "result.json") as temporary:
        temporary.write_text(json.dumps(result, indent=2) + "\n")


def _has_class_token(backbone: Config) -> bool:
    return backbone.get("with_cls_token", resolve_arch(backbone.arch).cls_token)


def num_patches(backbone: Config) -> int:
    """Patch tokens of the native image."""
    arch = resolve_arch(backbone.arch)
    height, width = to_2tuple(backbone.get("img_size", arch.img_size))
    side = backbone.get("patch_size", arch.patch_size)
    return (height // side) * (width // side)


def _schedule(backbone: Config, percent: int, after: int) -> dict[str, Any]:
    """Schedule that prunes a share of the patch tokens, nearest to it, evenly or in one step.

    Raises:
        SetupError: If a step would be smaller than one token, or lies behind the last place.
    """
    arch, patches = resolve_arch(backbone.arch), num_patches(backbone)
    fusion = backbone.get("fusion")
    steps = arch.depth - 1 - (fusion.get("num_blocks", 1) if fusion else 0)
    if after > steps:
        raise SetupError(f"expected a step after one of blocks 1 to {steps}, got {after}")
    pruned = patches * percent / 100
    rate = round(pruned if after else pruned / steps)
    if rate < 1:
        raise SetupError(f"{percent} % of {patches} tokens are less than one token a block")
    if after:
        return dict(type="cropr_mm.Stages", rate=rate, blocks=[after - 1], absorb_prefix=False)
    return dict(type="cropr_mm.ConstantRate", rate=rate)


def _call(run: Run, threads: int, tool: str, *args: str) -> None:
    """Run a tool; its output goes to a file."""
    log = run.folder / f"{Path(tool).stem}.txt"
    # Configs of oracles import from here.
    path = os.pathsep.join(filter(None, [str(ROOT / "benchmarks"), os.environ.get("PYTHONPATH")]))
    with log.open("w") as out:
        code = subprocess.run(
            [sys.executable, str(ROOT / "tools" / tool), *args],
            stdout=out,
            stderr=subprocess.STDOUT,
            env={**os.environ, "OMP_NUM_THREADS": str(threads), "PYTHONPATH": path},
            check=False,
        ).returncode
    if code:
        tail = "\n".join(log.read_text().splitlines()[-5:])
        raise SetupError(f"{run}: tools/{tool} ended with code {code} (see {log}):\n{tail}")


def drops_tokens(backbone: Config) -> bool:
    """Whether patches leave; those that are merged go on as part of a token."""
    if not backbone.get("reducer"):
        return False
    kind = MODELS.get(backbone.reducer["type"])
    return kind is not None and not issubclass(kind, MergingReducer)


def _mask_pixels_seen(audit: Path) -> float:
    """Share of ground-truth mask pixels whose token the block with the fewest tokens sees."""
    return 1.0 - max(json.loads(audit.read_text())["audit"]["all"]["mask_pixels_pruned"])
