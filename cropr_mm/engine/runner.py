"""mmengine's runner as the tools use it."""

import logging
from collections.abc import Callable
from typing import Any

from mmengine.logging import MMLogger
from mmengine.model import is_model_wrapper
from mmengine.runner import CheckpointLoader, Runner, load_state_dict
from torch import nn

from cropr_mm.backbones.find import find_backbones
from cropr_mm.engine.checkpoint_io import named_tensors, resample_queries
from cropr_mm.engine.console import is_for_console
from cropr_mm.engine.preflight import check_encoder, check_model


class ToolRunner(Runner):
    """Runner that keeps its console short and takes fitting checkpoints only.

    Environment, config and lists of settings go to the log file alone. Checkpoints that are tested
    or resumed must have every parameter of the model and no other; those that training starts from
    must have those of the encoder.
    """

    strict = False

    def build_logger(self, *args: Any, **kwargs: Any) -> MMLogger:
        logger = super().build_logger(*args, **kwargs)
        for handler in logger.handlers:
            if not isinstance(handler, logging.FileHandler):
                handler.addFilter(is_for_console)
        return logger

    def load_checkpoint(
        self,
        filename: str,
        map_location: str | Callable = "cpu",
        strict: bool = False,
        revise_keys: list = [(r"^module.", "")],  # noqa: B006 - the signature of the base class
    ) -> dict:
        """Load a checkpoint completely, or for fine-tuning with other heads at most.

        Raises:
            SetupError: If its names or shapes do not fit, see :func:`check_encoder`.
            CheckpointError: If the file is damaged or holds code.
        """
        strict = strict or self.strict
        checkpoint = CheckpointLoader.load_checkpoint(filename, map_location)
        self.call_hook("after_load_checkpoint", checkpoint=checkpoint)
        model = unwrapped_model(self)
        weights = named_tensors(checkpoint, revise_keys)
        if strict:
            check_model(model, weights, filename)
        else:
            for path, backbone in find_backbones(model).items():
                resample_queries(weights, backbone, path, checkpoint)
            check_encoder(model, weights, filename, checkpoint)
        load_state_dict(model, weights, strict, logger="silent")  # differences are checked above
        self._has_loaded = True
        self.logger.info(f"Load checkpoint from {filename}")
        return checkpoint


def unwrapped_model(runner: Runner) -> nn.Module:
    """The runner's model without its wrapper of data parallelism."""
    return runner.model.module if is_model_wrapper(runner.model) else runner.model
