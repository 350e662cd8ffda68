"""Parts of an encoder that pretrained files lack: they start anew, and learn where it is frozen."""

NEW_MODULES = ("reducers", "fusion", "mask_queries")
LORA = ".lora_"  # in the names of low-rank adapters
ADAPTER_SCALE = 2  # their alpha / r, if nothing else is set


def is_new(name: str) -> bool:
    """Whether a weight is of such a module or of a low-rank adapter.

    Args:
        name: Its name in the encoder.
    """
    return name.split(".")[0] in NEW_MODULES or LORA in name
