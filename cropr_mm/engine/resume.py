"""Which checkpoint a training goes on from, and whether it holds all that is needed for that."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.runner import EpochBasedTrainLoop, Runner
from torch.optim import Optimizer

from cropr_mm.checkpoints import CheckpointError, safe_load
from cropr_mm.checkpoints.sums import check_sums
from cropr_mm.engine.preflight import SetupError
from cropr_mm.engine.trainable import trains_routers
from cropr_mm.hooks import curriculum_hook, elastic_hook, router_hook
from cropr_mm.hooks.random_state_hook import is_not_validated
from cropr_mm.messages import some

_STATES = {
    curriculum_hook.CroprCurriculumHook: curriculum_hook.STATE,
    elastic_hook.CroprElasticHook: elastic_hook.STATE,
    router_hook.CroprRouterHook: router_hook.STATE,
}
_PARTS = ("state_dict", "meta", "message_hub", "optimizer")


def find_checkpoint(work_dir: str) -> str | None:
    """The newest whole checkpoint in a working folder; says which damaged ones it passed over.

    Args:
        work_dir: Folder with the file ``last_checkpoint``. Where that names a file of another
            folder, as in a copy, the file of the same name here is taken.

    Raises:
        SetupError: If there are checkpoints, but none is whole.
    """
    folder = Path(work_dir)
    candidates = _by_age(folder)
    damaged: list[str] = []
    for file in candidates:
        problem = damage(file)
        if problem is None:
            if damaged:
                _say(f"Going on from {file}, the newest whole checkpoint: {'; '.join(damaged)}")
            return str(file)
        damaged.append(problem)
    if damaged:
        raise SetupError(f"expected a whole checkpoint in {folder}, got none: {'; '.join(damaged)}")
    return None


def _by_age(folder: Path) -> list[Path]:
    """Checkpoints in a folder: the one that ``last_checkpoint`` names, then from the newest on."""
    files = [file for kind in ("iter", "epoch") for file in folder.glob(f"{kind}_*.pth")]
    files = [file for file in files if file.stem.rpartition("_")[2].isdigit()]
    files.sort(key=lambda file: int(file.stem.rpartition("_")[2]), reverse=True)
    note = folder / "last_checkpoint"
    named = Path(note.read_text(errors="replace").strip()) if note.is_file() else Path()
    here = folder / named.name if (folder / named.name).is_file() else named
    if not here.is_file():
        if named.name:
            _say(f"{note} names {named}, which does not exist")
        return files
    return [here, *(file for file in files if file.resolve() != here.resolve())]


def damage(file: Path) -> str | None:
    """What is wrong with a checkpoint file; None for a whole one."""
    try:
        check_sums(file)
        safe_load(file, "meta")
    except (CheckpointError, OSError) as error:
        return str(error)
    return None


def keep_seed(cfg: Config, checkpoint: str) -> None:
    """Give a config without a seed that of the training it goes on with, which orders the data."""
    meta = safe_load(checkpoint, "meta").get("meta")
    seed = meta.get("seed") if isinstance(meta, Mapping) else None
    randomness = cfg.get("randomness") or {}
    if seed is not None and randomness.get("seed") is None:
        cfg.randomness = {**randomness, "seed": seed}


def check_resumable(runner: Runner, checkpoint: Mapping[str, Any], label: str) -> None:
    """Check that a training can go on from a checkpoint as if it had not stopped.

    Args:
        runner: Runner with its train loop; its optimizer and schedulers may not be built yet.
        checkpoint: Content of the file.
        label: What to call it in messages.

    Raises:
        SetupError: If the state of optimizer, schedules, logs or curriculum is missing, or the
            iteration is none of this training's.
    """
    missing = [part for part in _PARTS if part not in checkpoint]
    if runner.param_schedulers and "param_schedulers" not in checkpoint:
        missing.append("param_schedulers")
    for kind, state in _STATES.items():
        if any(isinstance(hook, kind) for hook in runner.hooks) and not checkpoint.get(state):
            missing.append(state)
    if missing:
        raise SetupError(
            f"{label}: expected all that a training goes on from, got a file without "
            f"{', '.join(missing)}; to start anew from its weights, leave --resume out and add "
            f"--cfg-options load_from={label}"
        )
    if router_hook.STATE in checkpoint and not trains_routers(runner.cfg):
        raise SetupError(
            f"{label} is from a training of routers alone: expected --trainable routers with "
            "--resume"
        )
    for hook in runner.hooks:
        if isinstance(hook, router_hook.CroprRouterHook):
            _check_share(checkpoint[router_hook.STATE]["progress"], hook.progress, label)
    _check_elastic(runner, checkpoint.get(elastic_hook.STATE), label)
    _check_steps(runner, checkpoint["meta"], label)
    _check_counts(runner, checkpoint, label)


def _check_share(before: float | None, now: float | None, label: str) -> None:
    """Routers go on at the share of the reduction that they learned at."""
    if before != now:
        was, is_ = ("a curriculum" if p is None else f"--progress {p:g}" for p in (before, now))
        raise SetupError(
            f"{label}: its routers learned with {was}: expected the same to go on, got {is_}"
        )


def _check_elastic(runner: Runner, stored: Mapping[str, Any] | None, label: str) -> None:
    """Elastic training goes on as one, and draws from the same shares."""
    hooks = [h for h in runner.hooks if isinstance(h, elastic_hook.CroprElasticHook)]
    hook = hooks[0] if hooks else None
    if stored and hook is None:
        raise SetupError(
            f"{label} is from an elastic training: expected CroprElasticHook among custom_hooks to "
            "go on"
        )
    if not stored or hook is None:
        return
    now = dict(least=hook.least, most=hook.most)
    before = {name: stored.get(name, value) for name, value in now.items()}
    if before != now:
        raise SetupError(
            f"{label}: its shares were drawn from {before['least']:g} to {before['most']:g}: "
            f"expected the same to go on, got {now['least']:g} to {now['most']:g}"
        )


def _check_steps(runner: Runner, meta: Mapping[str, Any], label: str) -> None:
    """Epoch and iteration are those of a training of this length."""
    loop = runner.train_loop
    for name, most in (("iter", loop.max_iters), ("epoch", loop.max_epochs)):
        step = meta.get(name)
        if type(step) is not int or not 0 <= step <= most:
            raise SetupError(
                f"{label}: expected meta.{name} from 0 to {most}, the length of this training, "
                f"got {step!r}"
            )
    if meta["iter"] == loop.max_iters and not is_not_validated(runner, Path(label), meta["iter"]):
        raise SetupError(
            f"{label} is the end of this training of {loop.max_iters} iterations: nothing is left "
            "to do; train_cfg has its length"
        )
    if isinstance(loop, EpochBasedTrainLoop):
        done = meta["iter"] - meta["epoch"] * len(loop.dataloader)
        if done:
            runner.logger.warning(
                f"{label} is from within epoch {meta['epoch'] + 1}, {done} iterations after its "
                "start, and a loop of epochs repeats them; CheckpointHook(by_epoch=True) writes at "
                "the end of epochs"
            )


def _check_counts(runner: Runner, checkpoint: Mapping[str, Any], label: str) -> None:
    """As many schedulers as in the config, and an optimizer of the same form."""
    given = runner.param_schedulers
    wanted = len(given) if isinstance(given, list | tuple) else int(given is not None)
    stored = checkpoint.get("param_schedulers") or []
    if isinstance(stored, list) and not isinstance(given, Mapping) and len(stored) != wanted:
        raise SetupError(
            f"{label}: expected the state of {wanted} param_scheduler entries, got {len(stored)}"
        )
    if not isinstance(checkpoint["optimizer"], Mapping):
        raise SetupError(
            f"{label}: expected the state of an optimizer, got "
            f"{type(checkpoint['optimizer']).__name__}"
        )
    _check_optimizer(runner, checkpoint["optimizer"], label)


def _check_optimizer(runner: Runner, stored: Mapping[str, Any], label: str) -> None:
    """The same optimizer, by its settings; versions of torch add some, and take none away."""
    optimizer = getattr(runner.optim_wrapper, "optimizer", None)
    groups = stored.get("param_groups")
    if not isinstance(optimizer, Optimizer) or not groups:
        return
    own = optimizer.param_groups[0].keys()
    missing, strange = optimizer.defaults.keys() - groups[0].keys(), groups[0].keys() - own
    if missing and strange:
        raise SetupError(
            f"{label}: expected the state of {type(optimizer).__name__} with "
            f"{some(sorted(missing))}, got that of another optimizer with {some(sorted(strange))}"
        )


def _say(text: str) -> None:
    """Print on the first process, also before processes know each other."""
    if os.environ.get("RANK", "0") == "0":
        print(text, flush=True)
