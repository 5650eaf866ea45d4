"""Let the blur's average leave the border out instead of padding it by replication.

1. A window of two pixels that reaches over the border sees, with replication, the border pixel twice: (x + x) / 2 = x. An
   average over the pixels that exist is the same x. So Pad(edge, 1) and AveragePool(2x2) are
   AveragePool(2x2, the same pads, padding not counted).

Precondition: constant replicate padding of at most one pixel per side of the two image axes, read by nothing but a 2x2
average whose own padding is zero.
Saves: a copy of the upsampled map per blur.
"""

from __future__ import annotations

import onnx_ir as ir

from icf_deploy.export.lowering.rewrite import Result, applied, counted, skipped

WINDOW = (2, 2)
IMAGE_RANK = 4  # [N,C,H,W]


def drop_blur_padding(model: ir.Model) -> Result:
    """Fold replicate padding into the 2x2 average behind it."""
    found = [(pad, _pads(pad)) for pad in model.graph if pad.op_type == "Pad"]
    done = 0
    for pad, pads in found:
        pool = _only_reader(pad)
        if pads is None or pool is None or not _is_blur(pool):
            continue
        source = pad.inputs[0]
        pool.replace_input_with(0, source)
        pool.attributes["pads"] = ir.AttrInt64s("pads", pads)
        pool.attributes["count_include_pad"] = ir.AttrInt64("count_include_pad", 0)
        model.graph.remove(pad, safe=True)
        done += 1
    if not done:
        return skipped("no replicate padding stands before a 2x2 average alone")
    return applied(counted(done, "blur"))


def _pads(pad: ir.Node) -> list[int] | None:
    """[top, left, bottom, right] of a replicate padding by at most one pixel; None for any other padding."""
    if pad.attributes.get_string("mode", "constant") != "edge":
        return None
    amounts = ir.convenience.get_const_tensor(pad.inputs[1]) if pad.inputs[1] is not None else None
    if amounts is None or (len(pad.inputs) > 3 and pad.inputs[3] is not None):  # noqa: PLR2004 - input 3 chooses other axes
        return None
    values = [int(n) for n in amounts.numpy()]
    if len(values) != 2 * IMAGE_RANK or any(values[:2]) or any(values[IMAGE_RANK : IMAGE_RANK + 2]):
        return None
    pads = values[2:IMAGE_RANK] + values[IMAGE_RANK + 2 :]
    return pads if all(n in (0, 1) for n in pads) else None


def _only_reader(node: ir.Node) -> ir.Node | None:
    """The one node that reads the one output of `node`; None where there are more, or the graph gives it out."""
    output = node.outputs[0]
    readers = list(output.uses())
    return readers[0].node if len(readers) == 1 and not output.is_graph_output() else None


def _is_blur(pool: ir.Node) -> bool:
    kernel = tuple(pool.attributes.get_ints("kernel_shape", []))
    return (
        pool.op_type == "AveragePool"
        and kernel == WINDOW
        and not any(pool.attributes.get_ints("pads", [0]))
        and all(n == 1 for n in pool.attributes.get_ints("dilations", [1]))
        and pool.attributes.get_string("auto_pad", "NOTSET") == "NOTSET"
        and not pool.attributes.get_int("ceil_mode", 0)
    )
