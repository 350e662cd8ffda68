"""Dimensions and layer choices of the supported families, under timm's model names.

Sources: timm's model definitions (``vision_transformer.py``, ``deit.py``, ``eva.py``), from which
the names and numbers are; tests compare the features of these models with timm's own. What timm
lacks: LV-ViT (TokenLabeling, tlt/models/lvvit.py) and PS-ViT (yuexy/PS-ViT, models/ps_vit.py).
"""

from dataclasses import dataclass, fields, replace
from difflib import get_close_matches
from typing import Any


@dataclass(frozen=True)
class Arch:
    """Everything that decides the parameters of an encoder, except positions in windows.

    Attributes:
        embed_dim: Width C.
        depth: Number of blocks.
        num_heads: Attention heads; with RoPE embed_dim / num_heads must be a multiple of 4.
        hidden_dim: Width inside the MLP (of one of the two halves of SwiGLU); None means 4 C.
        patch_size: Side of a patch, in pixels.
        img_size: Native image side, in pixels.
        mlp: 'gelu' or 'swiglu'.
        mlp_norm: LayerNorm inside the MLP (EVA-02 base and large).
        attn_bias: 'qkv', 'qv' (EVA: keys have none) or 'none'.
        attn_norm: LayerNorm before the attention's output projection (EVA-02 CLIP).
        layer_scale: Initial value of LayerScale, or None for none.
        norm_eps: Epsilon of every LayerNorm.
        cls_token: Whether there is a class token.
        num_registers: Register tokens after the class token.
        pos_embed: Learned absolute positions.
        pos_embed_prefix: Whether these have rows for the prefix tokens too.
        rope: None, 'eva' or 'dinov3', see ``cropr_mm.ops.rope``.
        rope_temperature: Its temperature.
        rope_ref_grid: Its reference grid side, in patches.
        norm_after_pool: Average pooling comes before the final norm (timm's ``fc_norm``).
        conv_stem: Channels of a convolutional stem in the place of the patch embedding (LV-ViT),
            see :class:`cropr_mm.layers.patch_embed.ConvStem`; None for none.
        residual_divisor: What both branches of a block are divided by (LV-ViT's ``skip_lam``).
        sampling_steps: Steps of progressive sampling behind the stem (PS-ViT), each with a block
            that ``depth`` does not count, see
            :class:`cropr_mm.layers.progressive_sampling.ProgressiveSampling`; 0 for patches.
    """

    embed_dim: int
    depth: int
    num_heads: int
    hidden_dim: int | None = None
    patch_size: int = 16
    img_size: int = 224
    mlp: str = "gelu"
    mlp_norm: bool = False
    attn_bias: str = "qkv"
    attn_norm: bool = False
    layer_scale: float | None = None
    norm_eps: float = 1e-6
    cls_token: bool = True
    num_registers: int = 0
    pos_embed: bool = True
    pos_embed_prefix: bool = True
    rope: str | None = None
    rope_temperature: float = 10000.0
    rope_ref_grid: int = 16
    norm_after_pool: bool = True
    conv_stem: int | None = None
    residual_divisor: float = 1.0
    sampling_steps: int = 0

    def __post_init__(self) -> None:
        choices: dict[str, tuple[Any, ...]] = {
            "mlp": ("gelu", "swiglu"),
            "attn_bias": ("qkv", "qv", "none"),
            "rope": (None, "eva", "dinov3"),
        }
        for name, allowed in choices.items():
            if getattr(self, name) not in allowed:
                raise ValueError(
                    f"arch: {name} must be one of {allowed}, got {getattr(self, name)!r}"
                )
        for name in ("embed_dim", "depth", "num_heads", "mlp_dim", "patch_size", "img_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"arch: {name} must be at least 1, got {getattr(self, name)}")
        if self.conv_stem is not None and self.conv_stem < 1:
            raise ValueError(f"arch: conv_stem must be at least 1 or None, got {self.conv_stem}")
        stemless = self.conv_stem is None or self.rope is not None
        if self.sampling_steps < 0 or (self.sampling_steps and stemless):
            raise ValueError(
                "arch: sampling_steps must be at least 0, and needs a conv_stem and no rope, got "
                f"{self.sampling_steps}, conv_stem={self.conv_stem} and rope={self.rope!r}"
            )
        if not self.residual_divisor > 0:
            raise ValueError(
                f"arch: residual_divisor must be positive, got {self.residual_divisor}"
            )
        if self.residual_divisor != 1 and self.layer_scale is not None:
            raise ValueError(
                "arch: residual_divisor and layer_scale exclude each other, got "
                f"{self.residual_divisor} and {self.layer_scale}"
            )
        if self.embed_dim % self.num_heads:
            raise ValueError(
                f"arch: embed_dim must be a multiple of num_heads, "
                f"got {self.embed_dim} and {self.num_heads}"
            )
        if self.rope is not None and self.head_dim % 4:
            raise ValueError(
                f"arch: RoPE over two axes needs embed_dim / num_heads to be a multiple of 4, "
                f"got {self.embed_dim} / {self.num_heads} = {self.head_dim}"
            )

    @property
    def head_dim(self) -> int:
        """Channels per head."""
        return self.embed_dim // self.num_heads

    @property
    def mlp_dim(self) -> int:
        """Width inside the MLP."""
        return 4 * self.embed_dim if self.hidden_dim is None else self.hidden_dim

    @property
    def num_prefix(self) -> int:
        """Class token and registers."""
        return int(self.cls_token) + self.num_registers


# Width, depth, heads.
_TINY, _SMALL, _MEDIUM, _BASE = (192, 12, 3), (384, 12, 6), (512, 12, 8), (768, 12, 12)
_LARGE, _HUGE = (1024, 24, 16), (1280, 32, 16)


def _names(stem: str, sizes: tuple[int, ...], arch: Arch) -> dict[str, Arch]:
    """One entry per native image size."""
    return {f"{stem}_{size}": replace(arch, img_size=size) for size in sizes}


def _eva02(dims: tuple[int, int, int], sub_norm: bool, **changes: Any) -> Arch:
    hidden = int(dims[0] * 4 * 2 / 3)
    base = Arch(
        *dims, hidden, patch_size=14, mlp="swiglu", mlp_norm=sub_norm, attn_bias="qv", rope="eva"
    )
    return replace(base, **changes)


def _deit3(dims: tuple[int, int, int], patch_size: int = 16) -> Arch:
    return Arch(*dims, patch_size=patch_size, layer_scale=1e-6, pos_embed_prefix=False)


def _dinov2(dims: tuple[int, int, int], hidden_dim: int | None = None) -> dict[str, Arch]:
    """Without and with registers, keyed by the infix of the name."""
    plain = Arch(
        *dims,
        hidden_dim,
        patch_size=14,
        img_size=518,
        mlp="gelu" if hidden_dim is None else "swiglu",
        layer_scale=1e-5,
    )
    return {"": plain, "_reg4": replace(plain, num_registers=4, pos_embed_prefix=False)}


def _dinov3(dims: tuple[int, int, int], swiglu: bool = False) -> dict[str, Arch]:
    """Without and with biases of queries and values, keyed by the suffix of the name."""
    plain = Arch(
        *dims,
        img_size=256,
        mlp="swiglu" if swiglu else "gelu",
        attn_bias="none",
        layer_scale=1e-5,
        norm_eps=1e-5,
        num_registers=4,
        pos_embed=False,
        rope="dinov3",
        rope_temperature=100.0,
        norm_after_pool=False,
    )
    return {"": plain, "_qkvb": replace(plain, attn_bias="qv")}


def _lvvit(dims: tuple[int, int, int], divisor: float, width: int = 64) -> Arch:
    return Arch(
        *dims,
        3 * dims[0],
        attn_bias="none",
        norm_eps=1e-5,
        norm_after_pool=False,
        conv_stem=width,
        residual_divisor=divisor,
    )


def _ps_vit(dims: tuple[int, int, int]) -> Arch:
    return replace(_lvvit(dims, divisor=1.0), pos_embed=False, sampling_steps=4)


ARCHS: dict[str, Arch] = {
    # Plain ViT: AugReg, MAE, original
    **_names("vit_tiny_patch16", (224, 384), Arch(*_TINY)),
    **_names("vit_small_patch32", (224, 384), Arch(*_SMALL, patch_size=32)),
    **_names("vit_small_patch16", (224, 384), Arch(*_SMALL)),
    **_names("vit_small_patch8", (224,), Arch(*_SMALL, patch_size=8)),
    **_names("vit_base_patch32", (224, 384), Arch(*_BASE, patch_size=32)),
    **_names("vit_base_patch16", (224, 384), Arch(*_BASE)),
    **_names("vit_base_patch8", (224,), Arch(*_BASE, patch_size=8)),
    **_names("vit_large_patch32", (224, 384), Arch(*_LARGE, patch_size=32)),
    **_names("vit_large_patch16", (224, 384), Arch(*_LARGE)),
    **_names("vit_large_patch14", (224,), Arch(*_LARGE, patch_size=14)),
    **_names("vit_huge_patch14", (224,), Arch(*_HUGE, patch_size=14)),
    # DeiT and DeiT-III
    **_names("deit_tiny_patch16", (224,), Arch(*_TINY)),
    **_names("deit_small_patch16", (224,), Arch(*_SMALL)),
    **_names("deit_base_patch16", (224, 384), Arch(*_BASE)),
    **_names("deit3_small_patch16", (224, 384), _deit3(_SMALL)),
    **_names("deit3_medium_patch16", (224,), _deit3(_MEDIUM)),
    **_names("deit3_base_patch16", (224, 384), _deit3(_BASE)),
    **_names("deit3_large_patch16", (224, 384), _deit3(_LARGE)),
    **_names("deit3_huge_patch14", (224,), _deit3(_HUGE, patch_size=14)),
    # LV-ViT
    "lvvit_t": _lvvit((240, 12, 4), divisor=1.0),
    "lvvit_s": _lvvit((384, 16, 6), divisor=2.0),
    "lvvit_m": _lvvit((512, 20, 8), divisor=2.0),
    "lvvit_l": _lvvit((768, 24, 12), divisor=3.0, width=128),
    # PS-ViT: 14 x 14 points; blocks behind the sampling
    "ps_vit_ti_14": _ps_vit((192, 8, 3)),
    "ps_vit_b_14": _ps_vit((384, 10, 6)),
    # DINOv2
    **{f"vit_small_patch14{k}_dinov2": a for k, a in _dinov2(_SMALL).items()},
    **{f"vit_base_patch14{k}_dinov2": a for k, a in _dinov2(_BASE).items()},
    **{f"vit_large_patch14{k}_dinov2": a for k, a in _dinov2(_LARGE).items()},
    **{f"vit_giant_patch14{k}_dinov2": a for k, a in _dinov2((1536, 40, 24), 4096).items()},
    # DINOv3
    **{f"vit_small_patch16_dinov3{k}": a for k, a in _dinov3(_SMALL).items()},
    **{f"vit_small_plus_patch16_dinov3{k}": a for k, a in _dinov3(_SMALL, swiglu=True).items()},
    **{f"vit_base_patch16_dinov3{k}": a for k, a in _dinov3(_BASE).items()},
    **{f"vit_large_patch16_dinov3{k}": a for k, a in _dinov3(_LARGE).items()},
    **{f"vit_huge_plus_patch16_dinov3{k}": a for k, a in _dinov3((1280, 32, 20), True).items()},
    # EVA-02
    **_names("eva02_tiny_patch14", (224, 336), _eva02(_TINY, sub_norm=False)),
    **_names("eva02_small_patch14", (224, 336), _eva02(_SMALL, sub_norm=False)),
    **_names("eva02_base_patch14", (224, 448), _eva02(_BASE, sub_norm=True)),
    **_names("eva02_large_patch14", (224, 448), _eva02(_LARGE, sub_norm=True)),
    **_names(
        "eva02_base_patch16_clip",
        (224,),
        _eva02(_BASE, sub_norm=True, patch_size=16, attn_norm=True),
    ),
    **_names("eva02_large_patch14_clip", (224, 336), _eva02(_LARGE, sub_norm=True, attn_norm=True)),
}


# Names of Meta's torch.hub entries -> timm's.
HUB_NAMES = {
    **{
        f"dinov2_vit{letter}14{suffix}": f"vit_{size}_patch14{infix}_dinov2"
        for letter, size in (("s", "small"), ("b", "base"), ("l", "large"), ("g", "giant"))
        for suffix, infix in (("", ""), ("_reg", "_reg4"))
    },
    **{
        f"dinov3_vit{letter}16{suffix}": f"vit_{size}_patch16_dinov3"
        for letter, suffix, size in (
            ("s", "", "small"),
            ("s", "plus", "small_plus"),
            ("b", "", "base"),
            ("l", "", "large"),
            ("h", "plus", "huge_plus"),
        )
    },
}


def resolve_arch(arch: str | dict[str, Any]) -> Arch:
    """Look up the name of a model or build from explicit dimensions.

    Args:
        arch: Name of timm (a tag after a dot is ignored) or of Meta's torch.hub entries, or the
            attributes of :class:`Arch`.

    Raises:
        ValueError: If the name or a key is unknown, with what is known.
    """
    if isinstance(arch, str):
        name = arch.split(".", 1)[0]
        name = HUB_NAMES.get(name, name)
        if name not in ARCHS:
            near = get_close_matches(name, [*ARCHS, *HUB_NAMES], n=3, cutoff=0.0)
            raise ValueError(
                f"arch {arch!r} is none of the {len(ARCHS)} known names; nearest: "
                f"{', '.join(near)}; all are in cropr_mm.layers.arch.ARCHS"
            )
        return ARCHS[name]
    known = [f.name for f in fields(Arch)]
    unknown = sorted(set(arch) - set(known))
    missing = sorted({"embed_dim", "depth", "num_heads"} - set(arch))
    if unknown or missing:
        raise ValueError(
            f"arch as a dict takes {', '.join(known)}; got unknown {unknown}, missing {missing}"
        )
    return Arch(**arch)
