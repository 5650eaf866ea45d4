"""The two predictors that the ICF paper compares with, K-nearest neighbours and support vector regression, as plain arrays.

Both give the ab of a place of a photo from its local features (icf_deploy.training.local_features) alone; neighbouring
places are predicted independently. Nothing here is unpickled: what scikit-learn fitted is kept as arrays.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from icf_deploy.errors import EngineUnavailableError
from icf_deploy.training.config import BASELINES
from icf_deploy.training.local_features import SIZE, STRIDE, local_features

FloatArray = npt.NDArray[np.float32]

KNN, SVR = BASELINES
KERNEL_ROWS = 1024  # places whose kernel with all support vectors is held at once: 1024 x 10,000 floats are 40 MB


@dataclass(frozen=True)
class Neighbours:
    """K-nearest neighbours: the samples themselves. features float32 [N,F], scaled; ab float32 [N,2]."""

    features: FloatArray
    ab: FloatArray
    count: int

    def ab_of(self, features: FloatArray) -> FloatArray:
        """Scaled features [n,F] -> ab [n,2]: the mean of the nearest samples, weighted by 1 / distance."""
        try:
            from sklearn.neighbors import NearestNeighbors
        except ImportError as error:
            raise EngineUnavailableError("K-nearest neighbours need scikit-learn: pip install 'icf-deploy[train]'") from error
        search = NearestNeighbors(n_neighbors=self.count, algorithm="brute").fit(self.features)
        distance, index = search.kneighbors(features)
        weight = 1 / np.maximum(distance, 1e-6)  # a sample that is met exactly then decides alone
        weight /= weight.sum(axis=1, keepdims=True)
        return np.asarray((self.ab[index] * weight[:, :, None]).sum(axis=1), np.float32)


@dataclass(frozen=True)
class Machine:
    """One support vector regression with a Gaussian kernel: vectors float32 [n,F], weights float32 [n], bias, gamma."""

    vectors: FloatArray
    weights: FloatArray
    bias: float
    gamma: float

    def value_of(self, features: FloatArray) -> FloatArray:
        """Scaled features [n,F] -> [n]: sum of weight * exp(-gamma |x - v|^2), plus bias (Drucker et al. 1997)."""
        squares = (self.vectors**2).sum(axis=1)
        parts = []
        for start in range(0, len(features), KERNEL_ROWS):
            rows = features[start : start + KERNEL_ROWS]
            kernel = rows @ (2 * self.vectors.T)
            kernel -= squares
            kernel -= (rows**2).sum(axis=1, keepdims=True)
            kernel *= np.float32(self.gamma)
            np.exp(np.minimum(kernel, 0, out=kernel), out=kernel)
            parts.append(kernel @ self.weights)
        return np.asarray(np.concatenate(parts) + np.float32(self.bias), np.float32)


@dataclass(frozen=True)
class SupportVectors:
    """One machine for a, one for b."""

    a: Machine
    b: Machine

    def ab_of(self, features: FloatArray) -> FloatArray:
        """Scaled features [n,F] -> ab [n,2]."""
        return np.stack([self.a.value_of(features), self.b.value_of(features)], axis=1)


Model: TypeAlias = Neighbours | SupportVectors


@dataclass(frozen=True)
class Baseline:
    """A trained baseline. centre, spread: float32 [F], mean and standard deviation of the training samples' features."""

    kind: str
    centre: FloatArray
    spread: FloatArray
    model: Model

    @property
    def size(self) -> tuple[int, int]:
        """(H, W) of the gray that predict_ab takes, in pixels."""
        return SIZE

    @property
    def stride(self) -> int:
        """Pixels of gray per pixel of ab."""
        return STRIDE

    def scaled(self, features: FloatArray) -> FloatArray:
        """Features of any shape [...,F] -> the same with mean 0 and deviation 1 over the training samples."""
        return np.asarray((features - self.centre) / self.spread, np.float32)

    def predict_ab(self, gray: FloatArray) -> FloatArray:
        """Gray float32 [N,1,H,W] in 0..1 -> ab float32 [N,2,H / STRIDE, W / STRIDE] in CIELAB units."""
        fields = []
        for plane in gray[:, 0]:
            features = self.scaled(local_features(plane))
            ab = self.model.ab_of(features.reshape(-1, features.shape[2]))
            fields.append(ab.T.reshape(2, *features.shape[:2]))
        return np.ascontiguousarray(np.stack(fields), np.float32)
