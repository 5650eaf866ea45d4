"""ONNX Runtime's execution providers: our name of each, what it computes in, and the options that hold it to the graph.

A provider stands here once its options for precision are known: one that rounds float32 behind the graph's back would make
every drift a riddle.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass

CPU_PROVIDER = "CPUExecutionProvider"
_CUDA_LIBRARIES = "NVIDIA's driver, and CUDA with cuDNN 9: pip install 'onnxruntime-gpu[cuda,cudnn]', or a PyTorch with CUDA"
_GPU_WHEEL = "pip uninstall -y onnxruntime && pip install 'icf-deploy[gpu]'"


@dataclass(frozen=True)
class Provider:
    """One execution provider.

    name: ONNX Runtime's. formats: what it really computes in. whole: it takes one float format for the whole graph.
    compiles: it turns parts of the graph into code of its own. one_call: only one thread may be inside `run`.
    options: provider options for (recipe's formats, threads). install: the command that brings a build with it.
    needs: what it looks for on the machine when it starts, and the command that brings that.
    prepare: what has to happen before the session is created; it returns what is missing, "" for nothing.
    """

    name: str
    formats: tuple[str, ...]
    install: str
    needs: str = "its driver"
    options: Callable[[frozenset[str], int], Mapping[str, str]] = lambda formats, threads: {}
    whole: bool = False
    compiles: bool = False
    one_call: bool = False
    prepare: Callable[[], str] = lambda: ""


def _cuda(_: frozenset[str], __: int) -> Mapping[str, str]:
    # Without use_tf32=0 a float32 product has ten bits of mantissa on every GPU since Ampere.
    return {"use_tf32": "0", "cudnn_conv_algo_search": "EXHAUSTIVE", "arena_extend_strategy": "kSameAsRequested"}


def _tensorrt(formats: frozenset[str], _: int) -> Mapping[str, str]:
    # Its own engine cache stays off: its key has missed changes of the graph (onnxruntime #6455, #16356).
    chosen = {"trt_fp16_enable": str(int("fp16" in formats)), "trt_int8_enable": str(int("int8" in formats))}
    return {**chosen, "trt_engine_cache_enable": "0", "trt_timing_cache_enable": "0"}


def _openvino(_: frozenset[str], threads: int) -> Mapping[str, str]:
    return {"device_type": "CPU", "precision": "FP32", "num_of_threads": str(threads), "num_streams": "1"}


def _coreml(_: frozenset[str], __: int) -> Mapping[str, str]:
    # An ML program is typed; the older format computes float32 graphs in float16 on the Neural Engine.
    return {"ModelFormat": "MLProgram", "MLComputeUnits": "ALL", "AllowLowPrecisionAccumulationOnGPU": "0"}


def _xnnpack(_: frozenset[str], threads: int) -> Mapping[str, str]:
    return {"intra_op_num_threads": str(threads)}


def _qnn(_: frozenset[str], __: int) -> Mapping[str, str]:
    return {"backend_type": "htp", "enable_htp_fp16_precision": "0"}


def _migraphx(formats: frozenset[str], _: int) -> Mapping[str, str]:
    return {"migraphx_fp16_enable": str(int("fp16" in formats))}


def find_cuda_libraries() -> str:
    """Let ONNX Runtime find the CUDA and cuDNN libraries that PyTorch's or NVIDIA's wheels have brought (since 1.21).

    Returns the first library that is missing, in the loader's words.
    """
    import contextlib
    import io

    import onnxruntime

    preload = getattr(onnxruntime, "preload_dlls", None)
    if preload is None:
        return ""
    said = io.StringIO()
    with contextlib.redirect_stdout(said):  # it prints what it doesn't find, and standard output is the caller's
        preload()
    failures = [line for line in said.getvalue().splitlines() if line.startswith("Failed")]
    return failures[0] if failures else ""


def _tensorrt_without_tf32() -> str:
    # The provider has no option for it. NVIDIA's libraries read this when they are first used, all of them in this process.
    os.environ["NVIDIA_TF32_OVERRIDE"] = "0"
    return find_cuda_libraries()


# By device, in the order in which they are listed. int8 means Q/DQ around an operator, computed in int8.
PROVIDERS: dict[str, Provider] = {
    "cpu": Provider(CPU_PROVIDER, ("fp32", "int8"), "pip install 'icf-deploy[cpu]'"),
    "cuda": Provider(
        "CUDAExecutionProvider", ("fp32", "fp16"), _GPU_WHEEL, _CUDA_LIBRARIES, _cuda, prepare=find_cuda_libraries
    ),
    "tensorrt": Provider(
        "TensorrtExecutionProvider",
        ("fp32", "fp16", "int8"),
        _GPU_WHEEL,
        f"{_CUDA_LIBRARIES}; and TensorRT: pip install tensorrt",
        _tensorrt,
        whole=True,
        compiles=True,
        prepare=_tensorrt_without_tf32,
    ),
    "openvino": Provider(
        "OpenVINOExecutionProvider",
        ("fp32", "int8"),
        "pip uninstall -y onnxruntime && pip install onnxruntime-openvino",
        options=_openvino,
        compiles=True,
    ),
    "directml": Provider(
        "DmlExecutionProvider",
        ("fp32", "fp16"),
        "pip uninstall -y onnxruntime && pip install onnxruntime-directml (on Windows)",
        one_call=True,
    ),
    "coreml": Provider(
        "CoreMLExecutionProvider", ("fp32", "fp16"), "pip install 'icf-deploy[cpu]' (on macOS)", options=_coreml, compiles=True
    ),
    "xnnpack": Provider(
        "XnnpackExecutionProvider", ("fp32",), "no wheel has it: build ONNX Runtime with --use_xnnpack", options=_xnnpack
    ),
    "qnn": Provider(
        "QNNExecutionProvider",
        ("int8",),
        "pip uninstall -y onnxruntime && pip install onnxruntime-qnn",
        options=_qnn,
        compiles=True,
    ),
    "migraphx": Provider(
        "MIGraphXExecutionProvider",
        ("fp32", "fp16"),
        "pip uninstall -y onnxruntime && pip install onnxruntime-migraphx",
        options=_migraphx,
        whole=True,
        compiles=True,
    ),
}
