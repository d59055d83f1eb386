"""Weights shared out among ranks (fully sharded data parallel), for networks that no one device holds with optimiser.

Every rank keeps a part of each weight; a block of the trunk is gathered when it is its turn and let go again, all other
weights are gathered for the whole step. States and checkpoints hold whole tensors, the same files as without sharding,
so that a run may go on either way. After FSDP2: Zhao et al. 2023, doi 10.14778/3611540.3611569. fitting.py uses it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from lightning.pytorch.core.optimizer import LightningOptimizer
from lightning.pytorch.strategies import ModelParallelStrategy
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.fsdp import FSDPModule, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from torch import Tensor
    from torch.distributed import DeviceMesh
    from torch.optim import Optimizer

    from .training import TrainingModule

WHOLE = StateDictOptions(full_state_dict=True, cpu_offload=True)
"""States are gathered on the first rank."""


class FullySharded(ModelParallelStrategy):
    """Shares weights, gradients and optimiser out among ranks; its states are whole tensors.

    Parameters
    ----------
    ranks
        How many.
    """

    def __init__(self, ranks: int) -> None:
        super().__init__(data_parallel_size=ranks, tensor_parallel_size=1, save_distributed_checkpoint=False)

    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Any]:
        """Return the optimiser's state as one process would have it: parameters by number; on the first rank."""
        state = get_optimizer_state_dict(self.model, _bare(optimizer), options=WHOLE)
        if not state:
            return state
        number = {name: i for i, name in enumerate(_names(state["param_groups"]))}
        groups = [{**one, "params": [number[name] for name in one["params"]]} for one in state["param_groups"]]
        return {"state": {number[name]: one for name, one in state["state"].items()}, "param_groups": groups}

    def save_checkpoint(self, checkpoint: dict[str, Any], filepath: str | Path, storage_options: Any = None) -> None:
        """Write a state from the first rank, as any run writes it."""
        path = self.broadcast(filepath)
        if self.is_global_zero:
            self.checkpoint_io.save_checkpoint(checkpoint, path)

    def load_checkpoint(self, checkpoint_path: str | Path, weights_only: bool | None = None) -> dict[str, Any]:
        """Take up a state, by whatever strategy it was written.

        Raises
        ------
        CheckpointError
            When the folder is no state, or not as it was written.
        """
        checkpoint = self.checkpoint_io.load_checkpoint(checkpoint_path)
        set_model_state_dict(self.model, checkpoint["state_dict"], options=WHOLE)
        names = {id(weights): name for name, weights in self.model.named_parameters()}
        for optimizer, state in zip(self.optimizers, checkpoint["optimizer_states"], strict=True):
            mine = [names[id(weights)] for group in _bare(optimizer).param_groups for weights in group["params"]]
            groups = [{**one, "params": [mine[i] for i in one["params"]]} for one in state["param_groups"]]
            named = {"state": {mine[i]: one for i, one in state["state"].items()}, "param_groups": groups}
            set_optimizer_state_dict(self.model, _bare(optimizer), named, options=WHOLE)
        return checkpoint


def share_out(module: TrainingModule, mesh: DeviceMesh) -> None:
    """Share a module's weights out among the ranks of a mesh: the trunk's blocks one by one, the rest together."""
    if isinstance(module, FSDPModule):  # a validation after the last step sets up again
        return
    for block in module.network.trunk.blocks:
        fully_shard(block, mesh=mesh)
    fully_shard(module, mesh=mesh)
    for step in ("training_step", "validation_step"):  # the root's weights are gathered around these
        register_fsdp_forward_method(module, step)


def touched(module: TrainingModule) -> Tensor | float:
    """Return 0, of which every gathered weight of a sharded module is a term; 0 of a module that is not sharded.

    Ranks add up gradients weight by weight, and one that drew no neighbours, or no cell with some label, has to take
    part all the same.
    """
    if not isinstance(module, FSDPModule):
        return 0.0
    return 0.0 * torch.stack([one.sum() for one in module.parameters() if not isinstance(one, DTensor)]).sum()


def _bare(optimizer: Optimizer) -> Optimizer:
    return optimizer._optimizer if isinstance(optimizer, LightningOptimizer) else optimizer


def _names(groups: list[Mapping[str, Any]]) -> list[str]:
    return [name for one in groups for name in one["params"]]
