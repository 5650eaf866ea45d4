"""From a PyTorch module to an ONNX graph: `torch.export`, a free batch, weights once, nothing of this machine inside."""

from __future__ import annotations

import contextlib
import logging
import os
import warnings
from collections.abc import Iterator

import onnx
import torch
from torch import Tensor, nn

MAX_BATCH = 64
EXAMPLE_BATCH = 2  # torch.export would specialize a batch of 1
INPUT_NAME = "gray"
OUTPUT_NAME = "ab"
PRODUCER = "icf-deploy"
# Name scopes survive: recipes find nodes by module path. The rest is for the exporter's own debugging: stack traces name the
# paths and quote the source of the machine that exported, and would make equal graphs unequal.
KEPT_METADATA = ("pkg.torch.onnx.name_scopes",)


def example_gray(size: tuple[int, int]) -> Tensor:
    """A gray batch that tracing can run on; its values do not reach the graph."""
    height, width = size
    return torch.linspace(0, 1, EXAMPLE_BATCH * height * width).reshape(EXAMPLE_BATCH, 1, height, width)


def to_onnx(
    module: nn.Module,
    inputs: tuple[Tensor, ...],
    *,
    input_names: tuple[str, ...] = (INPUT_NAME,),
    output_names: tuple[str, ...] = (OUTPUT_NAME,),
) -> onnx.ModelProto:
    """Export `module` in evaluation mode with its first dimension free (1..MAX_BATCH).

    This is what `torch.onnx.export(dynamo=True)` makes of the module with its defaults; only debugging metadata is removed.
    Raises what torch.export raises for a module that it cannot trace.
    """
    batch = torch.export.Dim("batch", min=1, max=MAX_BATCH)
    with _quiet(), torch.no_grad():
        program = torch.onnx.export(
            module.eval(),
            inputs,
            dynamo=True,
            verbose=False,
            input_names=list(input_names),
            output_names=list(output_names),
            dynamic_shapes=tuple({0: batch} for _ in inputs),
        )
    assert program is not None
    model = program.model_proto
    strip_metadata(model)
    return model


def strip_metadata(model: onnx.ModelProto) -> None:
    """Remove, in place, what tells about the exporting machine and not about the graph."""
    graphs = [model.graph]
    holders = [*model.graph.node, *model.graph.input, *model.graph.output, *model.graph.value_info, *model.graph.initializer]
    for holder in [model, *graphs, *holders]:
        kept = [entry for entry in holder.metadata_props if entry.key in KEPT_METADATA]
        del holder.metadata_props[:]
        holder.metadata_props.extend(kept)
    for node in model.graph.node:
        node.doc_string = ""
    model.producer_name = PRODUCER
    model.producer_version = ""
    model.doc_string = ""


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporter's notes about itself off the terminal; errors still come through."""
    names = ("torch.onnx", "torch.onnx._internal.exporter._registration", "onnxscript", "onnx_ir")
    loggers = [logging.getLogger(name) for name in names]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), open(os.devnull, "w") as void, contextlib.redirect_stdout(void):  # noqa: PTH123  # a sink, no file
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
