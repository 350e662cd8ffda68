"""What the options of the command-line tools change in a config."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.device import get_device
from torch import nn

from cropr_mm.engine.preflight import SetupError

_AMP_WRAPPERS = {
    "OptimWrapper": "AmpOptimWrapper",
    "mmengine.OptimWrapper": "mmengine.AmpOptimWrapper",
    "cropr_mm.CroprOptimWrapper": "cropr_mm.CroprAmpOptimWrapper",
}
_PLAIN = "cropr_mm.CroprOptimWrapper"
_BFLOAT16 = "cropr_mm.CroprBfloat16OptimWrapper"


def enable_amp(cfg: Config) -> None:
    """Replace a config's optimizer wrapper by its mixed-precision form; on a CPU in bfloat16.

    Raises:
        SetupError: If no such form is known.
    """
    kind = cfg.optim_wrapper.get("type", "OptimWrapper")
    if get_device() == "cpu":
        disable_amp(cfg)
        if cfg.optim_wrapper.get("type") != _PLAIN:
            raise SetupError(f"--amp on a CPU expects optim_wrapper.type={_PLAIN}, got {kind}")
        cfg.optim_wrapper.type = _BFLOAT16
        return
    if kind in (*_AMP_WRAPPERS.values(), _BFLOAT16):
        return
    if kind not in _AMP_WRAPPERS:
        raise SetupError(
            f"--amp expects optim_wrapper of type {', '.join(_AMP_WRAPPERS)}, got {kind}"
        )
    cfg.optim_wrapper.type = _AMP_WRAPPERS[kind]
    cfg.optim_wrapper.setdefault("loss_scale", "dynamic")


def disable_amp(cfg: Config) -> None:
    """Replace a config's mixed-precision optimizer wrapper, if it has one, by its plain form."""
    plain = {_BFLOAT16: _PLAIN, **{amp: kind for kind, amp in _AMP_WRAPPERS.items()}}
    kind = cfg.optim_wrapper.get("type")
    if kind in plain:
        cfg.optim_wrapper.type = plain[kind]
        for name in ("loss_scale", "dtype", "use_fp16"):
            cfg.optim_wrapper.pop(name, None)


def check_precision(cfg: Config, model: nn.Module) -> None:
    """Find out before the first iteration whether the device can train in the config's precision.

    Args:
        cfg: Config.
        model: What it builds.

    Raises:
        SetupError: If there is only a CPU, and the config asks for mixed precision of accelerators,
            or for bfloat16 in a model with an operation of mmcv that has no kernel for it.
    """
    kind = cfg.optim_wrapper.get("type")
    if get_device() != "cpu":
        return
    if kind in _AMP_WRAPPERS.values():
        raise SetupError(
            f"optim_wrapper.type={kind} trains in mixed precision and expects an accelerator such "
            "as CUDA, got only the CPU (everything else was checked and fits); --amp trains in "
            "bfloat16 here, --no-amp in full precision"
        )
    aligns = any(type(m).__module__.startswith("mmcv.ops.roi") for m in model.modules())
    if kind == _BFLOAT16 and aligns:
        raise SetupError(
            f"RoIAlign of mmcv expects float32 on a CPU, and optim_wrapper.type={kind} trains in "
            "bfloat16: expected --no-amp"
        )


def dump_predictions(cfg: Config, file: str) -> None:
    """Add an evaluator that writes predictions to a pickle file.

    Raises:
        SetupError: If the file name does not end in .pkl or .pickle.
    """
    if not file.endswith((".pkl", ".pickle")):
        raise SetupError(f"--out expects a file name that ends in .pkl, got {file}")
    kind = "mmdet.DumpDetResults" if cfg.get("default_scope") == "mmdet" else "DumpResults"
    evaluators = cfg.test_evaluator
    if isinstance(evaluators, Mapping):
        evaluators = [evaluators]
    cfg.test_evaluator = [*evaluators, dict(type=kind, out_file_path=file)]


def show_predictions(cfg: Config, folder: str) -> None:
    """Let the host library draw its predictions for each test image.

    Args:
        cfg: Config; changed in place.
        folder: Folder for the pictures.

    Raises:
        SetupError: If the config's host library is none of the known ones.
    """
    folder = str(Path(folder).absolute())
    scope = cfg.get("default_scope")
    hooks = {
        "mmdet": dict(type="mmdet.DetVisualizationHook", draw=True, test_out_dir=folder),
        "mmseg": dict(type="mmseg.SegVisualizationHook", draw=True, interval=1),
        "mmpretrain": dict(
            type="cropr_mm.ClassVisualizationHook", enable=True, interval=1, out_dir=folder
        ),
    }
    if scope not in hooks:
        raise SetupError(f"--show-dir expects default_scope of {', '.join(hooks)}, got {scope}")
    configured = (cfg.get("default_hooks") or {}).get("visualization") or {}
    cfg.merge_from_dict({"default_hooks.visualization": {**configured, **hooks[scope]}})
    if scope == "mmseg":
        visualizer = cfg.get("visualizer") or dict(type="mmseg.SegLocalVisualizer")
        backends = [dict(type="LocalVisBackend")]
        cfg.visualizer = {**visualizer, "vis_backends": backends, "save_dir": folder}


def add_hook(cfg: Config, kind: str, **arguments: Any) -> None:
    """Add a custom hook to a config, in the place of those of its kind.

    Args:
        cfg: Config; changed in place.
        kind: Type of the hook, such as 'cropr_mm.CroprAuxLossHook'.
        arguments: Its arguments.
    """
    others = [hook for hook in cfg.get("custom_hooks") or [] if hook["type"] != kind]
    cfg.custom_hooks = [*others, dict(type=kind, **arguments)]


def names_of(configs: Sequence[str]) -> list[str]:
    """Name of each model: its config file's, or its folder's where files are called alike."""
    files = [Path(config).absolute() for config in configs]
    stems, folders = [file.stem for file in files], [file.parent.name for file in files]
    return folders if len(set(stems)) < len(stems) and len(set(folders)) == len(files) else stems
