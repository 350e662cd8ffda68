"""Several processes on a machine without an accelerator."""

import atexit
import gc

import torch
from mmengine.config import Config
from mmengine.device import get_device
from mmengine.dist import is_distributed


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
