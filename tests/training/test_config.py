from __future__ import annotations

import subprocess
import sys
from dataclasses import fields, replace
from pathlib import Path

import pytest

from icf_deploy.errors import UsageError
from icf_deploy.training.config import TrainConfig

CONFIG = TrainConfig(photos=(Path("photos"),), output=Path("x.safetensors"), steps=10)


def test_the_defaults_make_sense() -> None:
    CONFIG.check()


def test_every_option_has_a_help_text() -> None:
    assert [f.name for f in fields(TrainConfig) if not f.metadata.get("help")] == []


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"steps": None}, "either --steps N or --minutes M"),
        ({"minutes": 3.0}, "either --steps N or --minutes M"),
        ({"steps": 0}, "--steps must be above 0"),
        ({"batch": 1}, "--batch must be at least 2"),
        ({"crop": 100}, "--crop must be a multiple of 32"),
        ({"backbone_lr": -1.0}, "--backbone-lr must be above 0"),
        ({"damage": 1.5}, "--damage is a probability, 0 to 1, not 1.5"),
        ({"crop_balance": -1.0}, "--crop-balance must be at least 0"),
        ({"class_weight": 0.0}, "--class-weight must be above 0"),
        ({"annealed_weight": -1.0}, "--annealed-weight must be at least 0"),
        ({"adversarial_weight": -1.0}, "--adversarial-weight must be above 0"),
        ({"discriminator_lr": 0.0}, "--discriminator-lr must be above 0"),
        ({"loss": "classes", "qat": True, "from_checkpoint": Path("x")}, "--loss classes trains parts of its own"),
        ({"loss": "adversarial", "qat": True, "from_checkpoint": Path("x")}, "--loss adversarial trains parts of its own"),
        ({"ema": 1.0}, "--ema must be at least 0 and below 1"),
        ({"precision": "int8"}, "--precision is one of auto, bf16, fp32"),
        ({"output": Path("x.pth")}, "try -o x.safetensors"),
        ({"resume": True, "overwrite": True}, "give one of them"),
    ],
)
def test_options_that_make_no_sense_are_refused_by_name(change: dict[str, object], text: str) -> None:
    with pytest.raises(UsageError, match=text):
        replace(CONFIG, **change).check()  # type: ignore[arg-type]


def test_resuming_needs_no_length() -> None:
    replace(CONFIG, steps=None, resume=True).check()


def test_only_options_that_change_the_weights_hinder_a_resumption() -> None:
    recorded = CONFIG.recorded()
    assert replace(CONFIG, photos=(Path("moved"),), resume=True, log_dir=Path("logs"), gain=0.7).differences(recorded) == []
    assert replace(CONFIG, lr=2e-3).differences(recorded) == ["--lr was 0.001, is 0.002"]


def test_the_options_load_no_torch() -> None:
    code = "import sys, icf_deploy.training.config; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
