"""The state of an interrupted run, on disk beside its output.

The file is written to a temporary sibling and moved, so a full disk or a kill leaves the previous state whole, and it is
read with weights_only=True: tensors, numbers and text, never code.
"""

from __future__ import annotations

import json
import os
import pickle
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from icf_deploy.errors import ArtefactError, WorkError

STATE_FORMAT = "icf-training-state 1"
Record = dict[str, Any]  # one validation, as JSON values


@dataclass
class RunState:
    """Everything that a run needs to go on as if it had never stopped."""

    config: Record
    photos: str  # digest of the training photos
    total: int  # steps of the whole run
    step: int  # steps done
    network: dict[str, Any]
    averaged: dict[str, Any]
    optimizer: dict[str, Any]
    history: list[Record] = field(default_factory=list)
    seconds: float = 0.0  # spent in training so far
    start: str = ""  # digest of the checkpoint that --qat compares with; "" for other runs
    best: dict[str, Any] | None = None  # of the best validation so far: step, score, averaged weights
    learnt: dict[str, Any] = field(default_factory=dict)  # of a loss that learns: its parts and their optimiser; else empty


def state_path(output: Path) -> Path:
    """Return where the state of the run that writes `output` is kept."""
    return output.with_suffix(".training.pt")


def save_state(state: RunState, path: Path) -> None:
    """Write atomically; raise WorkError (and keep the previous file) where the disk does not take it."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    texts = {"config": json.dumps(state.config), "history": json.dumps(state.history)}
    try:
        torch.save({"format": STATE_FORMAT, **vars(state), **texts}, temporary)
        temporary.replace(path)
    except (OSError, RuntimeError) as error:  # torch's zip writer reports a full disk as RuntimeError
        temporary.unlink(missing_ok=True)
        raise WorkError(
            f"{path}: the training state could not be written ({error}); free some disk space and use --resume"
        ) from error


def load_state(path: Path) -> RunState:
    """Read a state file; raise WorkError when there is none, ArtefactError when it is something else."""
    if not path.exists():
        raise WorkError(f"{path}: no interrupted run to resume; leave --resume out to start one")
    try:
        stored = torch.load(path, map_location="cpu", weights_only=True)
        if not isinstance(stored, dict) or stored.pop("format", None) != STATE_FORMAT:
            raise ArtefactError(f"{path}: expected a training state of format {STATE_FORMAT!r}; start again with --overwrite")
        stored["config"], stored["history"] = json.loads(stored["config"]), json.loads(stored["history"])
        return RunState(**stored)
    except (RuntimeError, OSError, EOFError, pickle.UnpicklingError, ValueError, KeyError, TypeError) as error:
        raise ArtefactError(f"{path}: not a readable training state ({error}); start again with --overwrite") from error
