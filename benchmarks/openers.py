"""Opening a candidate through the registry of runtimes: what `bench` and `check` measure."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from icf_deploy.benchmarks.onnx_shapes import plain_sizes
from icf_deploy.errors import ArtefactError, UsageError
from icf_deploy.runtimes.base import Graph, Session, Target

if TYPE_CHECKING:
    from icf_deploy.benchmarks.candidate import Candidate
    from icf_deploy.bundle.opening import Bundle


def open_registered(candidate: Candidate) -> Session:
    """Build and open the candidate's engine. Raises as `registry.open_session`."""
    from icf_deploy.runtimes import registry

    if candidate.file is None:
        bundle = _open_bundle(candidate)
        return registry.open_session(bundle, candidate.runtime, graph=candidate.graph, threads=candidate.threads)
    name, device = registry.split(candidate.runtime)
    runtime = registry.get(name)
    return runtime.open(runtime.build(_read_file(candidate), Target(device, candidate.threads)))


def graph_of(candidate: Candidate) -> Graph:
    """What the candidate's runtime runs: a graph, or for `pytorch` the checkpoint. The bytes are read once and hashed."""
    if candidate.file is not None:
        return _read_file(candidate)
    from icf_deploy.runtimes import registry

    return registry.graph_for(_open_bundle(candidate), candidate.runtime, candidate.graph)


def _open_bundle(candidate: Candidate) -> Bundle:
    from icf_deploy.bundle.opening import open_bundle

    return open_bundle(candidate.bundle, expect_digest=candidate.expect_digest, trust_engines=candidate.trust_engines)


def _read_file(candidate: Candidate) -> Graph:
    assert candidate.file is not None  # the caller has checked
    try:
        data = candidate.file.read_bytes()
    except OSError as error:
        raise ArtefactError(f"{candidate.file} cannot be read: {error.strerror}") from error
    digest = hashlib.sha256(data).hexdigest()
    if candidate.file.suffix == ".onnx":
        size, output_size = plain_sizes(data)
        return Graph(data, digest, size, size[0] // output_size[0])
    size_option, stride = candidate.options.get("size"), candidate.options.get("stride")
    if size_option is None or stride is None:
        raise UsageError(f"{candidate.file} is no .onnx file, so its sizes must be given: options size [H, W] and stride")
    return Graph(data, digest, (int(size_option[0]), int(size_option[1])), int(stride))
