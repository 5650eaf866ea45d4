"""One pass over the photos: the ranges of all activations, the weights in int8, and the noise of int8 at each product."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx
import onnx_ir as ir

from icf_deploy.errors import WorkError
from icf_deploy.export.precision.biases import takes_bias
from icf_deploy.export.precision.clipping import STEPS, saturation
from icf_deploy.export.precision.identity import network_digest
from icf_deploy.export.precision.moments import Moments, Window, window_of
from icf_deploy.export.precision.nodes import is_constant, is_float, is_product, node_keys
from icf_deploy.export.precision.observers import Observer
from icf_deploy.export.precision.photos import CalibrationPhotos
from icf_deploy.export.precision.ranges import Activations
from icf_deploy.export.precision.weights import WEIGHT_BITS, RoundedWeight, output_axis, round_weight

DEFAULT_METHOD = "mse"

Say = Callable[[str], None]


@dataclass(frozen=True)
class Calibration:
    """What the photos said. Tensors go by `tensor_keys`, products by `nodes.node_keys`.

    largest: magnitude of each float tensor, infinite where one held no number. saturation: magnitude at which its int8 form
    ends, for what products read. weights: in int8. noise: what int8 does to a product alone, as the standard deviation of its
    error over that of its outputs; infinite where it is not known. weight_bits: of the weights' codes.
    """

    network: str
    method: str
    photos: str
    largest: Mapping[str, float]
    saturation: Mapping[str, float]
    weights: Mapping[str, RoundedWeight]
    noise: Mapping[str, float]
    weight_bits: int = WEIGHT_BITS


def calibrate(
    model: onnx.ModelProto,
    photos: CalibrationPhotos,
    *,
    method: str = DEFAULT_METHOD,
    weight_bits: int = WEIGHT_BITS,
    say: Say | None = None,
) -> Calibration:
    """Calibrate a float32 graph, gray [N,1,H,W] in. method: one of `clipping.METHODS`. weight_bits: of `LARGEST_CODE`.

    Memory: one photo's activations, a histogram per tensor and a covariance per product, however many photos there are.
    Raises UsageError for an unknown method, WorkError where the graph itself gives no numbers.
    """
    tell = say or (lambda _line: None)
    graph = ir.from_proto(model).graph
    keys, tensors = node_keys(graph), tensor_keys(graph)
    names = {value.name or "": key for value, key in tensors.items()}
    products = [node for node in graph if is_product(node)]
    read = {_input_name(node) for node in products}
    observers = {name: Observer(counts=name in read) for name in names}
    moments = _moments(products)
    by_input: dict[str, dict[Window, Moments]] = {}
    for node, found in moments.items():
        by_input.setdefault(_input_name(node), {})[found.window] = found
    tap = Activations(model, list(names))
    tell(f"ranges of {len(names)} tensors, and what {len(products)} products read")
    for photo in photos.gray:
        for name, x in tap.of(photo[None]):
            observers[name].add(x)
            for found in by_input.get(name, {}).values():
                found.add(x)
    _require_numbers(graph, observers)
    ends = {names[name]: saturation(observers[name], method) for name in sorted(read)}
    weights, noise = {}, {}
    tell(f"rounding the weights of {len(products)} products to {weight_bits} bits")
    for node in products:
        key, gathered = keys[node], moments.pop(node, None)
        top = ends[names[_input_name(node)]]
        weights[key] = round_weight(node, gathered, has_bias=takes_bias(node, _channels(node)), top=top, bits=weight_bits)
        noise[key] = _noise(node, weights[key], gathered, top)
    return Calibration(
        network=network_digest(model),
        method=method,
        photos=photos.digest,
        largest={key: observers[name].largest for name, key in names.items()},
        saturation=ends,
        weights=weights,
        noise=noise,
        weight_bits=weight_bits,
    )


def ranges(model: onnx.ModelProto, photos: CalibrationPhotos, *, method: str = DEFAULT_METHOD) -> dict[str, float]:
    """`Calibration.saturation` alone, in a tenth of the time. Raises as `calibrate`."""
    graph = ir.from_proto(model).graph
    names = {value.name or "": key for value, key in tensor_keys(graph).items()}
    observers = {_input_name(node): Observer() for node in graph if is_product(node)}
    tap = Activations(model, list(observers))
    for photo in photos.gray:
        for name, x in tap.of(photo[None]):
            if name in observers:
                observers[name].add(x)
    return {names[name]: saturation(observer, method) for name, observer in sorted(observers.items())}


def tensor_keys(graph: ir.Graph) -> dict[ir.Value, str]:
    """Keys of the graph's inputs and of every float tensor that it computes: `gray`, or NODE:OUTPUT."""
    keys = {value: value.name or "" for value in graph.inputs}
    for node, key in node_keys(graph).items():
        keys |= {value: f"{key}:{i}" for i, value in enumerate(node.outputs) if is_float(value)}
    return keys


def _moments(products: list[ir.Node]) -> dict[ir.Node, Moments]:
    """Products that read the same in the same way share theirs."""
    windows = {node: window_of(node) for node in products}
    shared: dict[tuple[str, Window], Moments] = {}
    return {
        node: shared.setdefault((_input_name(node), window), Moments(window))
        for node, window in windows.items()
        if window is not None
    }


def _input_name(node: ir.Node) -> str:
    value = node.inputs[0]
    assert value is not None and not is_constant(value)
    return value.name or ""


def _channels(node: ir.Node) -> int:
    weight = node.inputs[1]
    assert weight is not None and weight.const_value is not None
    return int(weight.const_value.shape[output_axis(node)])  # type: ignore[arg-type]  # a constant's sizes are numbers


def _require_numbers(graph: ir.Graph, observers: Mapping[str, Observer]) -> None:
    for value in graph.outputs:
        if not observers[value.name or ""].finite:
            raise WorkError(f"the float32 graph gives NaN or infinity at {value.name!r} on the calibration photos")


def _noise(node: ir.Node, weight: RoundedWeight, moments: Moments | None, top: float) -> float:
    """sqrt(error power / signal power) at the outputs of a product without its bias, from the moments of its input.

    Rounding the input adds step^2 / 12 to each of its variances; rounding the weights adds (Q - W) cov (Q - W)^T.
    """
    original = node.inputs[1]
    assert original is not None and original.const_value is not None
    if moments is None:
        return np.inf
    window, covariance = moments.window, moments.covariance
    shape = (window.groups, -1, window.length)
    w = _rows(original.const_value.numpy().astype(np.float64), weight.axis).reshape(shape)
    steps = np.expand_dims(weight.scales.astype(np.float64), 1)
    error = w - (_rows(weight.codes.astype(np.float64), weight.axis) * steps).reshape(shape)
    signal = float(np.einsum("gol,glm,gom->", w, covariance, w, optimize=True))
    signal += float((np.einsum("gol,gl->go", w, moments.mean) ** 2).sum())
    wrong = float(np.einsum("gol,glm,gom->", error, covariance, error, optimize=True))
    wrong += float((w**2).sum()) * (top / STEPS) ** 2 / 12
    return float(np.sqrt(max(wrong, 0.0) / signal)) if signal > 0 else np.inf


def _rows(weight: npt.NDArray[np.float64], axis: int) -> npt.NDArray[np.float64]:
    """[out, everything else]."""
    moved = np.moveaxis(weight, axis, 0)
    rows: npt.NDArray[np.float64] = moved.reshape(len(moved), -1)
    return rows
