"""Files of EVA-02: detectors, and encoders from masked image modeling."""

from cropr_mm.checkpoints.detectron2 import DETECTOR, ENCODER
from cropr_mm.checkpoints.rename import Rule, Source, moved

_BLOCK = r"(blocks\.\d+\.)"
_WEIGHT = r"(weight|bias)"

# Names that are timm's pass as they are; the parts of a product are packed afterwards.
_EVA: tuple[Rule, ...] = (
    (r"(pos_embed|patch_embed\.proj\.(?:weight|bias))", r"\1"),
    (rf"{_BLOCK}(norm[12]|attn\.proj)\.{_WEIGHT}", r"\1\2.\3"),
    (rf"{_BLOCK}attn\.([qkv])_proj\.weight", r"\1attn.\2_proj.weight"),
    (rf"{_BLOCK}attn\.([qv])_bias", r"\1attn.\2_bias"),
    (rf"{_BLOCK}mlp\.w1\.{_WEIGHT}", r"\1mlp.fc1_g.\2"),
    (rf"{_BLOCK}mlp\.w2\.{_WEIGHT}", r"\1mlp.fc1_x.\2"),
    (rf"{_BLOCK}mlp\.w3\.{_WEIGHT}", r"\1mlp.fc2.\2"),
    (rf"{_BLOCK}mlp\.ffn_ln\.{_WEIGHT}", r"\1mlp.norm.\2"),
    (r"(blocks\.\d+\.attn\.)?rope(_win|_glb)?\.freqs_(cos|sin)", None),
)

# Source: EVA, EVA-02/det/detectron2/modeling/backbone/vit.py (``ViT``); the rest is detectron2's.
# Files hold 'model' and, where weights were averaged, 'ema_state' (modeling/ema.py).
EVA02_DET = Source(
    files="an EVA-02 detector (EVA-02/det; Objects365, COCO or LVIS)",
    mark=r"backbone\.net\.blocks\.0\.mlp\.w1\.weight",
    rules=(*moved(_EVA, ENCODER, "backbone."), *DETECTOR),
    detector=True,
)

# Source: EVA, EVA-02/asuka/modeling_pretrain.py and modeling_finetune.py. Tiny and small have
# packed products (``xops.SwiGLU`` and ``qkv``), base and large split ones with a norm between.
EVA02_MIM = Source(
    files="an EVA-02 encoder (EVA-02/asuka; masked image modeling or fine-tuned)",
    mark=r"blocks\.0\.mlp\.w(1|12)\.weight",
    rules=moved(
        (
            *_EVA,
            (r"cls_token", "cls_token"),
            (rf"{_BLOCK}attn\.qkv\.weight", r"\1attn.qkv.weight"),
            (rf"{_BLOCK}mlp\.w12\.{_WEIGHT}", r"\1mlp.fc1.\2"),
            (rf"(?:fc_)?norm\.{_WEIGHT}", r"norm.\1"),
            (rf"(?:mask_token|(?:lm_head|head)\.{_WEIGHT})", None),
        ),
        "",
        "backbone.",
    ),
    detector=False,
)
