"""The state of a training that goes on: safetensors with a JSON header, like a model file, and never pickle."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors
import torch
from torch import Tensor, nn

from flawmap.core.errors import ArtifactError, ConfigError
from flawmap.core.files import sha256_of
from flawmap.core.tensor_file import load_tensors, save_tensors
from flawmap.methods.config import Config
from flawmap.methods.overrides import flat, parse

KEY = "flawmap-checkpoint"
FORMAT = 1
REMEDY = "remove it to start anew"
FREE = {f"training.{name}" for name in ("device", "memory_gb", "checkpoint_minutes", "precision")}
"""Settings that may change between stop and resume. What precision was used is compared by itself."""


@dataclass(frozen=True)
class Checkpoint:
    """Network, Adam's moments, and where in the training they belong.

    steps: of the whole training, also where minutes were asked for. precision: of the network's arithmetic. pending:
    losses of the steps since the last row of the history. files: `file_digests` of the settings.
    """

    tensors: dict[str, Tensor]
    config: dict[str, Any]
    precision: str
    files: dict[str, str]
    data_digest: str
    step: int
    steps: int
    seconds: float
    history: list[dict[str, Any]]
    pending: list[float]

    @classmethod
    def of(cls, network: nn.Module, optimizer: torch.optim.Optimizer, *, config: Config, **where: Any) -> Checkpoint:
        tensors = {f"network.{name}": tensor for name, tensor in network.state_dict().items()}
        moments = optimizer.state_dict()["state"]
        for place, (name, _) in enumerate(network.named_parameters()):
            tensors |= {f"optimizer.{key}.{name}": value for key, value in moments[place].items()}
        return cls(
            {name: tensor.detach().clone() for name, tensor in tensors.items()}, config.model_dump(mode="json"), **where
        )

    def restore(self, network: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        """Put the saved state into a freshly built network and optimizer, in place.

        Raises:
            ArtifactError: it lacks a part of them, or holds one of another shape.
        """
        prefix = "network."
        state = {}
        try:
            network.load_state_dict({k[len(prefix) :]: v for k, v in self.tensors.items() if k.startswith(prefix)})
            for place, (name, parameter) in enumerate(network.named_parameters()):
                state[place] = {"step": self.tensors[f"optimizer.step.{name}"].clone()}
                for key in ("exp_avg", "exp_avg_sq"):
                    # It lies in memory as its parameter does (channels last), as if training had never stopped.
                    moment = torch.empty_like(parameter, requires_grad=False)
                    state[place][key] = moment.copy_(self.tensors[f"optimizer.{key}.{name}"])
        except (KeyError, RuntimeError) as error:
            raise ArtifactError(
                f"the checkpoint does not hold the state of this network ({error}); remove it to start anew"
            ) from None
        optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def save_checkpoint(checkpoint: Checkpoint, path: Path) -> None:
    """Write beside, then rename: a kill at any moment leaves the checkpoint before this one, or this one."""
    header = {key: value for key, value in vars(checkpoint).items() if key != "tensors"}
    save_tensors(path, KEY, header | {"format": FORMAT}, checkpoint.tensors)


def load_checkpoint(path: Path, config: Config, data_digest: str, precision: str) -> Checkpoint | None:
    """The checkpoint at `path`; None if there is none yet.

    Args:
        precision: in which the training would go on, "float32" or "bfloat16".
    Raises:
        ArtifactError: damaged, not a checkpoint, or one of a newer flawmap.
        ConfigError: it belongs to other settings, files or training images, or to another precision.
    """
    if not path.is_file():
        return None
    try:
        header, tensors = load_tensors(path, KEY, REMEDY)
        version = int(header.pop("format"))
        if version > FORMAT:
            raise ArtifactError(
                f"{path} has format {version}, this flawmap reads up to {FORMAT}; update flawmap, or {REMEDY}"
            )
        checkpoint = Checkpoint(tensors, **header)
        before = parse(checkpoint.config)  # settings that are newer than the checkpoint get their default
    except ArtifactError:
        raise
    except (safetensors.SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
        raise ArtifactError(f"{path} is not a readable checkpoint ({error}); {REMEDY}") from None
    files = file_digests(config)
    old, new = (flat(settings.model_dump(mode="json")) for settings in (before, config))
    names = sorted((old.keys() | new.keys()) - FREE - files.keys())
    changed = [f"{name} was {old.get(name)}, is {new.get(name)}" for name in names if old.get(name) != new.get(name)]
    if changed:
        raise ConfigError(
            f"{path} was written with other settings: {'; '.join(changed[:3])}; resume with the same ones, or remove "
            "the checkpoint to start anew"
        )
    if checkpoint.precision != precision:
        raise ConfigError(
            f"{path} was written while training in {checkpoint.precision}, this machine would go on in {precision}; "
            f"resume with --set training.precision={checkpoint.precision}, or remove the checkpoint to start anew"
        )
    other = [name for name, digest in files.items() if checkpoint.files.get(name) != digest]
    if other:
        raise ConfigError(
            f"{path} was written while training with another file as {' and '.join(other)}; name that one, or remove "
            "the checkpoint to start anew"
        )
    if checkpoint.data_digest != data_digest:
        raise ConfigError(f"{path} was written while training on other images; remove it to start anew")
    return checkpoint


def file_digests(config: Config) -> dict[str, str]:
    """The SHA-256 of each file that the fit reads, by the setting that names it. Such a file may be moved."""
    return {f"method.{name}": sha256_of(path) for name, path in config.method.files().items()}
