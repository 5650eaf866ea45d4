"""The norm that nothing reads goes, and only that."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from icf_deploy.network.network import ColorizationNetwork


def test_its_two_tensors_go_and_the_function_stays(ddcolor: ColorizationNetwork, applies_exactly: Callable[..., Any]) -> None:
    lowered = applies_exactly(ddcolor, "unused-norm")
    before = sum(parameter.numel() for parameter in ddcolor.parameters())
    after = sum(parameter.numel() for parameter in lowered.network.parameters())
    assert before - after == 2 * 96


def test_another_backbone_is_left_alone(edge: ColorizationNetwork, leaves_alone: Callable[..., Any]) -> None:
    leaves_alone(edge, "unused-norm", reason="no norm that nothing reads")
