"""Complexity of a config as one record, and as text for people."""

from typing import Any

from mmengine.config import Config

from cropr_mm.backbones.checks import check_sizes
from cropr_mm.backbones.find import backbone_entry
from cropr_mm.build import build_model
from cropr_mm.profiling.encoder_cost import encoder_cost
from cropr_mm.profiling.model_cost import model_cost
from cropr_mm.text_table import format_table

_BAR = 30
_CONVENTION = {
    "unit": "multiply-adds (1 MAC = 1), batch size 1, evaluation mode",
    "macs_linear": "matmuls with weights: linear and convolution layers and the scorers of "
    "reducers; the convention of published token-pruning GFLOPs",
    "macs_total": "macs_linear and the attention matmuls QK^T and AV",
    "blocks": "index counts from 0; tokens enter the block, prefix included; the reducer after a "
    "block is part of it",
    "params_trained": "all parameters of training, auxiliary parts included",
    "deployed": "multiply-adds after switch_to_deploy",
    "params_deployed": "parameters after switch_to_deploy",
}


def complexity_report(cfg: Config, img_size: tuple[int, int] | None = None) -> dict[str, Any]:
    """Count a config's model and its encoder without weights or data.

    Args:
        cfg: Config whose ``model.backbone`` reduces tokens on one grid, such as ``CroprViT``.
        img_size: Height and width in pixels. Default: that of the backbone.

    Returns:
        Plain types for JSON; keys ``convention``, ``img_size``, ``encoder`` and ``model``.

    Raises:
        ValueError: If the config has no such model, or the image size does not fit it.
    """
    backbone_entry(cfg)
    model = build_model(cfg, "meta").eval()
    if img_size is not None:
        check_sizes(img_size, 1, 1)
    encoder = encoder_cost(model.backbone, img_size)
    return {
        "convention": _CONVENTION,
        "img_size": list(img_size or model.backbone.native_size),
        "encoder": {"type": type(model.backbone).__name__, **encoder.as_dict()},
        "model": {"type": type(model).__name__, **model_cost(model, img_size).as_dict()},
    }


def format_complexity(report: dict[str, Any]) -> str:
    """Tables with bars; blocks count from 1 here."""
    encoder, model = report["encoder"], report["model"]
    height, width = report["img_size"]
    blocks = encoder["blocks"]
    most = max(block["tokens"] for block in blocks)
    rows = [["block (from 1)", "tokens", "GMAC linear", "GMAC total", ""]]
    for block in blocks:
        bar = "#" * max(1, round(_BAR * block["tokens"] / most))
        counts = (str(block["index"] + 1), str(block["tokens"]))
        rows.append([*counts, *_gmacs(block), bar.ljust(_BAR)])
    texts = [part["counted"] for part in model["parts"].values()]
    width_of_text = max(map(len, ["counted", *texts]))
    parts = [["", "GMAC linear", "GMAC total", "counted".ljust(width_of_text)]]
    for name, part in model["parts"].items():
        parts.append([f"  {name}", *_gmacs(part), part["counted"].ljust(width_of_text)])
    lines = [
        f"{encoder['type']} in {model['type']}, image {height}x{width} pixels, batch size 1",
        "",
        format_table(rows),
        "",
        format_table(
            [
                ["", "GMAC linear", "GMAC total", "M params trained", "M params deployed"],
                ["encoder", *_gmacs(encoder), *_params(encoder)],
                *_deployed_row(encoder),
                [
                    "model (MACs of the parts counted below)" if model["not_counted"] else "model",
                    *_gmacs(model),
                    *_params(model),
                ],
            ]
        ),
        "",
        format_table(parts),
        *[f"  {name}: not counted: {why}" for name, why in model["not_counted"].items()],
        "",
        "linear: weights only, as published; total: with QK^T and AV",
    ]
    return "\n".join(lines)


def _gmacs(entry: dict[str, Any]) -> tuple[str, str]:
    counts = (entry["macs_linear"], entry["macs_total"])
    linear, total = (f"{count / 1e9:#.4g}".rstrip(".") for count in counts)
    return linear, total


def _deployed_row(encoder: dict[str, Any]) -> list[list[str]]:
    """A row more where deployment folds matmuls."""
    counts, deployed = _gmacs(encoder), _gmacs(encoder["deployed"])
    return [] if counts == deployed else [["encoder, deployed", *deployed, "", ""]]


def _params(entry: dict[str, Any]) -> tuple[str, str]:
    return f"{entry['params_trained'] / 1e6:.2f}", f"{entry['params_deployed'] / 1e6:.2f}"
