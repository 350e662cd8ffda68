"""Several processes on a machine without an accelerator."""

import atexit
import gc
import os

import torch
from mmengine.config import Config
from mmengine.device import get_device
from mmengine.dist import is_distributed

from cropr_mm.engine.preflight.errors import SetupError

# What launchers tell each of their processes.
_VARIABLES = {
    "pytorch": ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"),
    "slurm": ("SLURM_PROCID", "SLURM_NTASKS", "SLURM_NODELIST"),
    "mpi": ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_LOCAL_RANK", "OMPI_COMM_WORLD_SIZE"),
}


def check_launcher(launcher: str) -> None:
    """Raise SetupError where no launcher of this kind has started the process."""
    missing = [name for name in _VARIABLES.get(launcher, ()) if name not in os.environ]
    if missing:
        raise SetupError(
            f"launcher {launcher!r} expects to have started this process, as tools/dist_train.sh "
            f"and tools/slurm_train.sh do; not set: {', '.join(missing)}"
        )


def join_processes_on_cpu(cfg: Config) -> None:
    """Let several processes run without an accelerator, where mmengine insists on CUDA devices."""
    if cfg.launcher != "pytorch" or get_device() != "cpu" or is_distributed():
        return
    torch.distributed.init_process_group("gloo")
    atexit.register(_leave_processes)
    wrapper = cfg.get("model_wrapper_cfg") or dict(
        type="MMDistributedDataParallel",
        broadcast_buffers=False,
        find_unused_parameters=cfg.get("find_unused_parameters", False),
    )
    if "DistributedDataParallel" in str(wrapper.get("type", "MMDistributedDataParallel")):
        wrapper = {**wrapper, "device_ids": None}  # no other wrapper has such an argument
    cfg.model_wrapper_cfg = wrapper


def _leave_processes() -> None:
    """End the threads of the process group, which else may outlive the interpreter and abort."""
    gc.collect()  # wrapped models hold the group too
    torch.distributed.destroy_process_group()
