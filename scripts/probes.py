"""Makes the tiny graphs with which `doctor` finds out what an engine really computes in.

    python scripts/probes.py icf_deploy/data/probes

Each maps gray [N,1,32,32] to ab [N,2,32,32] by the same two convolutions, in another number format. All weights are numbers
of few bits that every format holds exactly. What comes out for which input, and how far each format may be off, stands in
`icf_deploy/diagnosis.py`.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

SIDE = 32
HIDDEN = 16  # channels
FLOATS = {"fp32": TensorProto.FLOAT, "fp16": TensorProto.FLOAT16, "bf16": TensorProto.BFLOAT16}
# Operator sets, each with its IR version: the oldest that know the format, so that engines of any age read them.
OPSETS = {"bf16": (22, 10)}
OPSET = (17, 8)
# int8 steps: of the weights in -8..8, the hidden values in 0..1.51, the output in -9.5..11.2.
STEPS = {"last": 1 / 4, "y": 1 / 64, "z": 1 / 8}


def weights() -> dict[str, npt.NDArray[np.float32]]:
    """The two kernels: [HIDDEN,1,3,3] in steps of 1/64 and [2,HIDDEN,1,1] in steps of 1/4, in a fixed disorder."""
    first = (np.arange(HIDDEN * 9) * 37 % 65 - 24).reshape(HIDDEN, 1, 3, 3)
    last = (np.arange(HIDDEN * 2) * 23 % 65 - 32).reshape(2, HIDDEN, 1, 1)
    return {"first": (first / 64).astype(np.float32), "last": (last / 4).astype(np.float32)}


def float_graph(name: str) -> onnx.ModelProto:
    """All of it in one float format, with Casts around where that is not float32."""
    element = FLOATS[name]
    kind = helper.tensor_dtype_to_np_dtype(element)
    tensors = [
        helper.make_tensor(key, element, value.shape, value.astype(kind).tobytes(), raw=True)
        for key, value in weights().items()
    ]
    nodes = [
        helper.make_node("Conv", ["x", "first"], ["h"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["h"], ["y"]),
        helper.make_node("Conv", ["y", "last"], ["z"]),
    ]
    if element == TensorProto.FLOAT:
        nodes[0].input[0], nodes[-1].output[0] = "gray", "ab"
    else:
        nodes.insert(0, helper.make_node("Cast", ["gray"], ["x"], to=element))
        nodes.append(helper.make_node("Cast", ["z"], ["ab"], to=TensorProto.FLOAT))
    return _model(name, nodes, tensors)


def int8_graph() -> onnx.ModelProto:
    """Symmetric int8 with zero point 0 around the last convolution, as exports write it; the first is left in float."""
    codes = np.rint(weights()["last"] / STEPS["last"]).astype(np.int8)
    tensors = [numpy_helper.from_array(weights()["first"], "first"), numpy_helper.from_array(codes, "last_q")]
    tensors += [numpy_helper.from_array(np.float32(step), f"{name}_step") for name, step in STEPS.items()]
    tensors.append(numpy_helper.from_array(np.int8(0), "zero"))
    nodes: list[onnx.NodeProto] = []

    def quantized(name: str) -> str:
        parameters = [f"{name}_step", "zero"]
        nodes.append(helper.make_node("QuantizeLinear", [name, *parameters], [f"{name}_q"]))
        nodes.append(helper.make_node("DequantizeLinear", [f"{name}_q", *parameters], [f"{name}_dq"]))
        return f"{name}_dq"

    nodes.append(helper.make_node("Conv", ["gray", "first"], ["h"], pads=[1, 1, 1, 1]))
    nodes.append(helper.make_node("Relu", ["h"], ["y"]))
    nodes.append(helper.make_node("DequantizeLinear", ["last_q", "last_step", "zero"], ["last"]))
    nodes.append(helper.make_node("Conv", [quantized("y"), "last"], ["z"]))
    nodes.append(helper.make_node("Identity", [quantized("z")], ["ab"]))
    return _model("int8", nodes, tensors)


def _model(name: str, nodes: list[onnx.NodeProto], tensors: list[onnx.TensorProto]) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes,
        f"probe-{name}",
        [helper.make_tensor_value_info("gray", TensorProto.FLOAT, ["batch", 1, SIDE, SIDE])],
        [helper.make_tensor_value_info("ab", TensorProto.FLOAT, ["batch", 2, SIDE, SIDE])],
        tensors,
    )
    opset, ir_version = OPSETS.get(name, OPSET)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=ir_version)
    onnx.checker.check_model(model, full_check=True)
    return model


def probes() -> dict[str, bytes]:
    """File name -> content."""
    models = {**{name: float_graph(name) for name in FLOATS}, "int8": int8_graph()}
    return {f"{name}.onnx": model.SerializeToString(deterministic=True) for name, model in models.items()}


def main() -> int:
    """Write them all into the folder that is named."""
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in probes().items():
        (folder / name).write_bytes(data)
        print(f"{folder / name}: {len(data)} bytes")
    return 0


if __name__ == "__main__":
    sys.exit(main())
