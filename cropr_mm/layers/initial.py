"""Initial values of timm's ViT."""

from torch import nn


def reset_linear(module: nn.Module) -> None:
    """Overwrite every linear layer in a module, or the module itself where it is one.

    Weights are drawn from a truncated normal distribution of standard deviation 0.02; biases are
    zero.
    """
    for layer in module.modules():
        if isinstance(layer, nn.Linear):
            nn.init.trunc_normal_(layer.weight, std=0.02)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
