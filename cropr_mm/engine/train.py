"""Check, then train."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mmengine.config import Config
from mmengine.dist import is_main_process
from mmengine.runner import find_latest_checkpoint

from cropr_mm.engine.build_runner import build_runner, print_outputs
from cropr_mm.engine.checkpoint_io import existing_checkpoint
from cropr_mm.engine.config import require_entries
from cropr_mm.engine.errors import running_errors
from cropr_mm.engine.first_image import check_first_image
from cropr_mm.engine.options import check_precision, disable_amp, enable_amp
from cropr_mm.engine.outputs import check_writable
from cropr_mm.engine.preflight import SetupError, check_device, check_masks
from cropr_mm.engine.resume import find_checkpoint, keep_seed
from cropr_mm.engine.runner import AnyRunner, unwrapped_model
from cropr_mm.engine.safeguards import add_safeguards
from cropr_mm.engine.strategy import check_shardable, choose_strategy, is_sharded, runner_class
from cropr_mm.engine.trainable import train_routers, trains_routers
from cropr_mm.engine.work_folder import lock_folder, set_aside


def train(
    cfg: Config,
    resume: str | None = None,
    amp: bool | None = None,
    load_from: str | None = None,
    trainable: str = "all",
    progress: float | None = None,
    strategy: str | None = None,
) -> None:
    """Check, then train.

    Args:
        cfg: Config from :func:`load_config`; changed in place.
        resume: Checkpoint to go on from, or 'auto' for the latest in the working folder.
        amp: Whether to train with automatic mixed precision; None leaves that to the config.
        load_from: Checkpoint to start from, in the place of the config's.
        trainable: 'all', or 'routers' for the reducers alone, see :func:`train_routers`.
        progress: Share of the full reduction while routers learn; None for the default.
        strategy: 'ddp' or 'fsdp', see :func:`choose_strategy`; None leaves that to the config.

    Raises:
        SetupError: If config or data do not fit, or there is a GPU that would not be used, before
            the first iteration.
    """
    check_device()
    require_entries(cfg, "train_dataloader", "train_cfg", "optim_wrapper")
    check_writable("--work-dir", cfg.work_dir, folder=True)
    if amp is not None:
        (enable_amp if amp else disable_amp)(cfg)
    choose_strategy(cfg, strategy)
    add_safeguards(cfg)
    if load_from is not None:
        cfg.load_from, cfg.resume = load_from, False
    if trainable == "routers":
        train_routers(cfg, progress)
    if resume is None and cfg.get("resume"):
        resume = cfg.get("load_from") or "auto"
    if resume == "auto":
        resume = find_checkpoint(cfg.work_dir)
        if resume is None:
            print(f"Nothing to resume in {cfg.work_dir}: starting anew.")
    if resume is not None:
        cfg.load_from, cfg.resume = existing_checkpoint(resume), True
        keep_seed(cfg, resume)
    if cfg.get("load_from"):
        existing_checkpoint(cfg.load_from)
    elif trains_routers(cfg):
        raise SetupError("routers learn in a trained model: expected --load-from, got none")
    with running_errors():  # older versions of mmengine load data as soon as a loop is built
        runner = build_runner(cfg, ("train", "val"), runner_class(cfg))
        runner.strict = bool(cfg.get("resume"))
        model = unwrapped_model(runner)
        if is_sharded(cfg):
            check_shardable(model, runner.hooks)
        check_masks(model, cfg)
        check_precision(cfg, model)
        check_first_image(runner, "val")
        with _own_folder(runner, cfg):
            runner.train()
    print_outputs(runner, "Trained", {"last checkpoint": find_latest_checkpoint(runner.work_dir)})


@contextmanager
def _own_folder(runner: AnyRunner, cfg: Config) -> Iterator[None]:
    """Inside of the block the working folder is this training's alone."""
    if not is_main_process():
        yield
        return
    folder = Path(runner.work_dir)
    with lock_folder(folder):
        if not cfg.get("resume"):
            earlier = set_aside(folder, cfg.get("load_from"))
            if earlier is not None:
                print(f"Checkpoints of an earlier training in {folder} are now in {earlier}.")
        yield
