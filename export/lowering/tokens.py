"""A map as tokens, in the order of operators that engines take best."""

from __future__ import annotations

from torch import Tensor


def to_tokens(x: Tensor) -> Tensor:
    """[N,C,h,w] -> [N,h*w,C].

    Permuted before it is flattened. The other way round ONNX Runtime 1.32 folds the permutation into every product that reads
    the tokens, each of which is then a fifth slower; and a convolution's output may lie in memory as [N,h,w,C] already.
    """
    return x.permute(0, 2, 3, 1).flatten(1, 2)
