"""mmengine's FSDPStrategy as the tools use it: units, devices, and one whole checkpoint."""

from collections.abc import Collection, Mapping
from functools import partial
from itertools import chain
from typing import Any

import torch
from mmengine._strategy import FSDPStrategy
from mmengine.device import get_device
from mmengine.optim import BaseOptimWrapper
from mmengine.registry import DefaultScope
from torch import nn
from torch.distributed.fsdp import (
    FullOptimStateDictConfig,
    FullStateDictConfig,
    FullyShardedDataParallel,
)
from torch.distributed.fsdp.wrap import lambda_auto_wrap_policy

from cropr_mm.backbones.find import find_backbones, find_vits
from cropr_mm.engine.errors import building_errors
from cropr_mm.engine.preflight import SetupError


class ShardedStrategy(FSDPStrategy):
    """Shards a model whose weights are loaded and whose optimizer is built.

    An optimizer that is built before sees the shapes of parameters, which layer-wise rules need,
    and goes on with their shards, since these stay the same objects (``use_orig_params``).

    Args:
        model_wrapper: Arguments of mmengine's MMFullyShardedDataParallel. Default: the attention
            and the MLP of every block of a CroprViT are a unit each, and all else is in the root.
        state_dict_cfg: As in mmengine; 'full', one file of the whole model, as any other training
            writes it, is the only one.
        **options: All others of mmengine's strategy.

    Raises:
        SetupError: If parameters would be flattened, weights not be initialized, or checkpoints be
            written in parts.
    """

    model_wrapper: dict[str, Any]

    def __init__(
        self,
        *,
        model_wrapper: Mapping[str, Any] | None = None,
        state_dict_cfg: str = "full",
        **options: Any,
    ) -> None:
        wrapper = dict(model_wrapper or {})
        if state_dict_cfg != "full":
            raise SetupError(
                "FSDP writes one whole checkpoint: expected strategy.state_dict_cfg='full', got "
                f"{state_dict_cfg!r}"
            )
        if not wrapper.get("use_orig_params", True):
            raise SetupError(
                "parameters keep their groups in the optimizer: expected "
                "strategy.model_wrapper.use_orig_params=True, got False"
            )
        if options.get("skip_init_weights"):
            raise SetupError(
                "weights are initialized and loaded before the model is sharded: expected "
                "strategy.skip_init_weights=False, got True"
            )
        on_cpu = get_device() == "cpu"
        if on_cpu:  # mmengine's default is the number of a GPU
            wrapper["device_id"] = torch.device("cpu")
        super().__init__(model_wrapper=wrapper, state_dict_cfg=state_dict_cfg, **options)
        if on_cpu:  # torch takes what it moves from there to there for a copy, and writes over it
            self.state_dict_config = FullStateDictConfig(rank0_only=True)
            self.optim_state_dict_config = FullOptimStateDictConfig(
                rank0_only=True, offload_to_cpu=False
            )

    def build_optim_wrapper(
        self, optim_wrapper: BaseOptimWrapper, model: nn.Module | None = None
    ) -> BaseOptimWrapper:
        """The wrapper as it is, once its optimizer is known to hold parameters of the model."""
        assert model is not None, "it is wrapped before"
        groups = optim_wrapper.optimizer.param_groups
        held = {parameter for group in groups for parameter in group["params"]}
        assert held <= set(model.parameters()), "shards take the place of parameters' data"
        return optim_wrapper

    def build_param_scheduler(self, *args: Any, **options: Any) -> Any:
        """Build the schedules of rates; SetupError for arguments that they do not take."""
        with building_errors():
            return super().build_param_scheduler(*args, **options)

    def optim_state_dict(self) -> dict[str, Any]:
        """State of the whole optimizer by names of parameters, on the first process."""
        own = self.optim_wrapper.state_dict()
        whole = FullyShardedDataParallel.optim_state_dict(self.model, self.optim_wrapper.optimizer)
        return {**own, **whole}

    def load_model_state_dict(
        self, state_dict: dict[str, Any], *, strict: bool = False, revise_keys: Any = ()
    ) -> None:
        """Nothing: weights are loaded, and compared with the model, before it is sharded."""

    def load_optim_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take the state of a whole optimizer, also one that was written with DDP.

        Raises:
            ValueError: If its groups have other numbers of parameters.
        """
        optimizer = self.optim_wrapper.optimizer
        whole = {name: state_dict.pop(name) for name in ("state", "param_groups")}
        shards = FullyShardedDataParallel.optim_state_dict_to_load(
            self.model, optimizer, self._by_name(whole)
        )
        self.optim_wrapper.load_state_dict({**state_dict, **shards})

    def _by_name(self, whole: dict[str, Any]) -> dict[str, Any]:
        """The state of an optimizer by names of parameters; DDP numbers them."""
        groups = self.optim_wrapper.optimizer.param_groups
        own = [[self.id_to_name[id(p)] for p in group["params"]] for group in groups]
        stored = [group["params"] for group in whole["param_groups"]]
        if [*map(len, own)] != [*map(len, stored)]:
            raise ValueError(
                f"expected groups of {[*map(len, own)]} parameters, got {[*map(len, stored)]}"
            )
        names = dict(zip(chain(*stored), chain(*own), strict=True))
        return {
            "state": {names[key]: value for key, value in whole["state"].items()},
            "param_groups": [
                {**group, "params": params}
                for group, params in zip(whole["param_groups"], own, strict=True)
            ],
        }

    def _wrap_model(self, model: nn.Module) -> nn.Module:
        policy = partial(lambda_auto_wrap_policy, lambda_fn=_units(model).__contains__)
        self.model_wrapper = {"auto_wrap_policy": policy, **self.model_wrapper}
        scope = DefaultScope.overwrite_default_scope("mmengine")  # hosts know no functions
        with scope, building_errors():
            wrapped = super()._wrap_model(model)
        check_root(wrapped)
        return wrapped


def _units(model: nn.Module) -> Collection[nn.Module]:
    """Modules that are sharded on their own: those that every way through a block calls."""
    blocks = [block for vit in find_vits(model).values() for block in vit.blocks]
    return {part for block in blocks for part in (block.attn, block.mlp)}


def check_root(model: FullyShardedDataParallel) -> None:
    """Find out whether all reducers are in the unit of the root.

    Auxiliary gradients are computed during the forward pass, outside of the hooks of units.

    Raises:
        SetupError: If one is in another unit, or has one.
    """
    units = FullyShardedDataParallel.fsdp_modules(model)
    others = {module for unit in units if unit is not model for module in unit.modules()}
    for backbone in find_backbones(model).values():
        parted = [n for n, r in backbone.reducers.items() if not others.isdisjoint(r.modules())]
        if parted:
            raise SetupError(
                "FSDP expects reducers in the unit of the root, got an auto_wrap_policy that has "
                f"units of those of blocks {', '.join(parted)}"
            )
