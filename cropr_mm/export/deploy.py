"""Strip a training checkpoint to what inference needs."""

import copy
from pathlib import Path
from typing import Any, NamedTuple

import torch
from mmengine.config import Config
from torch import nn

from cropr_mm.backbones.find import backbone_class, find_backbones
from cropr_mm.build import build_model
from cropr_mm.checkpoints import safe_load
from cropr_mm.checkpoints.atomic import replacing
from cropr_mm.checkpoints.content import as_checkpoint
from cropr_mm.checkpoints.load import check_names, check_shapes
from cropr_mm.checkpoints.queries import has_deployed_query
from cropr_mm.checkpoints.values import check_values
from cropr_mm.engine.force_share import check_shares
from cropr_mm.engine.outputs import check_writable
from cropr_mm.engine.preflight.adapters import check_adapters
from cropr_mm.engine.preflight.deployed import PLANS, plans_of


class Deployed(NamedTuple):
    """What :func:`deploy_checkpoint` did.

    Attributes:
        file: The new checkpoint.
        encoders: Encoders that were switched, by their names in the model.
        parameters_before: Of the whole model in training.
        parameters_after: Of the whole model as written.
        progress: Share of the full reduction that it was deployed for.
    """

    file: Path
    encoders: tuple[str, ...]
    parameters_before: int
    parameters_after: int
    progress: float = 1.0

    def __str__(self) -> str:
        share = f" and --progress {self.progress:g}" if self.progress < 1 else ""
        saved = 1 - self.parameters_after / self.parameters_before
        return (
            f"Switched {', '.join(self.encoders)} to deploy.\n"
            f"  parameters before  {self.parameters_before:>13,}\n"
            f"  parameters after   {self.parameters_after:>13,}  ({saved:.1%} fewer)\n"
            f"  checkpoint         {self.file}\n"
            f"It loads into the config with {self.encoders[0]}.deploy=True{share}."
        )


def deploy_checkpoint(
    cfg: Config, checkpoint: str | Path, out: str | Path, progress: float = 1.0
) -> Deployed:
    """Write the inference form of a training checkpoint.

    Every backbone in the model that reduces tokens is switched; optimizer, schedules and logs are
    left out. The result loads strictly into the same config with ``deploy=True`` in the backbone,
    and its meta data hold that config and the numbers of tokens, which the tools compare.

    Args:
        cfg: Config of the model, of any task; not changed.
        checkpoint: Training checkpoint of exactly this model, see :func:`safe_load`.
        out: File to write; folders are made, an old file is overwritten.
        progress: Share of the full reduction to deploy for, in [0, 1]; in the config of the file
            the schedule is that share of this one's (``AtProgress``).

    Raises:
        ValueError: If the checkpoint is not of this model, if no encoder can be switched, if
            nothing can be reduced less, or if ``out`` is a folder or the checkpoint itself.
        FileNotFoundError: If there is no such checkpoint.
    """
    out = Path(out)
    if out.is_dir() or out.resolve() == Path(checkpoint).resolve():
        raise ValueError(f"expected another file for the result, got {out}")
    check_writable("the result", out)
    model = build_model(cfg)
    encoders = find_backbones(model)
    if not encoders:
        raise ValueError(
            f"expected a cropr_mm.CroprViT, CroprPVT or CroprCvT in {cfg.model.type}, found none"
        )
    check_shares(model, [progress])
    for encoder in encoders.values():
        encoder.progress = progress
    plans = plans_of(model)  # before anything is read
    content = as_checkpoint(safe_load(checkpoint), str(checkpoint))
    weights, wanted = content["state_dict"], model.state_dict()
    check_adapters(model, weights, str(checkpoint), content)
    missing, unexpected = wanted.keys() - weights.keys(), weights.keys() - wanted.keys()
    hint = ": it is deployed already" if has_deployed_query(unexpected) else ""
    check_names(missing, unexpected, f"{checkpoint} is not a checkpoint of this config{hint}")
    check_shapes(weights, wanted, str(checkpoint))
    check_values(weights, wanted, str(checkpoint))
    model.load_state_dict(weights, strict=True)

    before = _count(model)
    for encoder in encoders.values():
        encoder.switch_to_deploy()
    deployed = copy.deepcopy(cfg)
    _set_deploy(deployed.model, progress)
    meta = {**content["meta"], "cfg": deployed.pretty_text, PLANS: plans}
    out.parent.mkdir(parents=True, exist_ok=True)
    with replacing(out) as temporary:
        torch.save(dict(meta=meta, state_dict=model.state_dict()), temporary)
    return Deployed(out, tuple(encoders), before, _count(model), progress)


def _set_deploy(settings: Any, progress: float) -> None:
    """Set ``deploy`` and the schedule in every encoder of a model config; leave adapters out."""
    if isinstance(settings, dict):
        if backbone_class(settings) is not None:
            settings["deploy"] = True
            settings.pop("lora", None)  # merged into the weights
            if progress != 1 and settings.get("schedule") is not None:
                settings["schedule"] = dict(
                    type="cropr_mm.AtProgress", schedule=settings["schedule"], progress=progress
                )
        settings = list(settings.values())
    if isinstance(settings, list | tuple):
        for value in settings:
            _set_deploy(value, progress)


def _count(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())
