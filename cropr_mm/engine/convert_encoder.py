"""Write the file of an encoder, of any kind that ``init_cfg`` reads, as a checkpoint of ours."""

from pathlib import Path

import torch
from mmengine.config import Config

from cropr_mm.build import build_model
from cropr_mm.checkpoints.load import load_backbone
from cropr_mm.checkpoints.new_parts import is_new
from cropr_mm.engine.convert import ENCODER, Report, check_destination, encoder_of


def convert_encoder(src: str | Path, dst: str | Path, cfg: Config) -> Report:
    """Load a file into the encoder of a config and write its weights.

    Args:
        src: File, see :func:`cropr_mm.checkpoints.load.load_backbone`.
        dst: File to write; it must not exist, its folder must.
        cfg: Config of a model whose encoder is its ``backbone``; not changed.

    Raises:
        CheckpointError: If the file does not fit the encoder.
        FileNotFoundError: If there is no such file.
        ValueError: If ``dst`` exists, or its folder does not.
    """
    dst = check_destination(dst)
    encoder = encoder_of(build_model(cfg))
    load_backbone(encoder, src)
    weights = {ENCODER + n: v for n, v in encoder.state_dict().items() if not is_new(n)}
    torch.save(dict(meta=dict(source="encoder", cfg=cfg.pretty_text), state_dict=weights), dst)
    return Report(dst, "", len(weights), [])
