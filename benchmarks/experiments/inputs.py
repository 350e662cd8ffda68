"""Files that a benchmark needs and the user brings."""

from pathlib import Path

from mmengine.config import Config

from cropr_mm.engine.preflight import SetupError
from experiments.benchmark_tasks import BENCHMARK_TASKS

ROOT = Path(__file__).resolve().parents[2]


def check_inputs(benchmark: str) -> None:
    """Look for data and weights before any work is done.

    Args:
        benchmark: Name of a benchmark task.

    Raises:
        SetupError: If a folder of data or a file of weights is missing, with the variable to set
            and where such files come from.
    """
    task = BENCHMARK_TASKS[benchmark]
    if task.demo_data:  # is made
        return
    cfg = Config.fromfile(ROOT / task.dense)
    cfg.merge_from_dict(task.overrides)
    folder = ROOT / cfg.train_dataloader.dataset.data_root
    if not folder.is_dir():
        raise SetupError(
            f"{benchmark}: expected photos in {folder}, found no such folder; set CROPR_DATA_ROOT "
            f"to the folder that holds {folder.name}/ (docs/configs.md says where its photos are "
            "from)"
        )
    init_cfg = cfg.model.backbone.get("init_cfg")
    if init_cfg and not (ROOT / init_cfg.checkpoint).is_file():
        arch = cfg.model.backbone.arch
        raise SetupError(
            f"{benchmark}: expected weights in {ROOT / init_cfg.checkpoint}, found no such file; "
            f"set CROPR_WEIGHTS_ROOT to the folder that holds it (any weights of timm's {arch}, "
            "saved as safetensors under that name, will do)"
        )
