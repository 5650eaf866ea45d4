"""The calibration that the precisions of one export share: made when the first of them needs it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import onnx

from icf_deploy.bundle.fields import Json
from icf_deploy.errors import UsageError
from icf_deploy.export.precision.calibration import DEFAULT_METHOD, Calibration
from icf_deploy.export.precision.photos import CalibrationPhotos, packaged_photos, photos_of
from icf_deploy.export.precision.scale_cache import calibrated
from icf_deploy.export.precision.trained import TrainedInt8, as_trained
from icf_deploy.export.precision.weights import WEIGHT_BITS

NAMED = 3  # how many skipped files a line names
LEFT_WIDE = "train --qat left it wide"

Say = Callable[[str], None]


class Calibrating:
    """Calibrates one float32 graph; of each number of weight bits once.

    photos: a folder; None: the packaged ones. method: one of `clipping.METHODS`. trained: what `train --qat` left in the
    checkpoint; int8 takes it as it is. say: told what happens.
    """

    def __init__(
        self,
        model: onnx.ModelProto,
        size: tuple[int, int],
        *,
        photos: Path | None = None,
        method: str = DEFAULT_METHOD,
        trained: TrainedInt8 | None = None,
        say: Say | None = None,
    ) -> None:
        self._model, self._size, self._folder, self._method, self._trained = model, size, photos, method, trained
        self._say = say or (lambda _line: None)
        self._photos: CalibrationPhotos | None = None
        self._found: dict[int, Calibration] = {}

    @property
    def photos(self) -> CalibrationPhotos:
        """Every view. WorkError for a folder without enough photos."""
        if self._photos is None:
            self._photos = packaged_photos(self._size) if self._folder is None else photos_of(self._folder, self._size)
            self._say(f"calibrating on {self._photos.source}: {len(self._photos.names)} views")
            if self._photos.skipped:
                names = ", ".join(name for name, _ in self._photos.skipped[:NAMED])
                self._say(f"skipped {len(self._photos.skipped)} files that could not be read: {names}")
        return self._photos

    def calibration(self, weight_bits: int = WEIGHT_BITS) -> Calibration:
        """Ranges and weights, trained ones where there are some.

        Raises as `calibrate`, WorkError as `photos`, and UsageError for trained weights of other bits.
        """
        if self._trained is not None and weight_bits != WEIGHT_BITS:
            raise UsageError(
                f"--weight-bits {weight_bits}: this checkpoint holds int8 weights of {WEIGHT_BITS} bits, made by train --qat: "
                "leave it out, or export the checkpoint that training started from"
            )
        if weight_bits not in self._found:
            found = calibrated(self._model, self.photos, method=self._method, weight_bits=weight_bits, say=self._say)
            if self._trained is not None:
                self._say("int8 as train --qat left it in the checkpoint")
                found = as_trained(self._model, found, self._trained)
            self._found[weight_bits] = found
        return self._found[weight_bits]

    @property
    def left_wide(self) -> dict[str, str]:
        """{key: reason} of the products that training left in float32."""
        return {} if self._trained is None else dict.fromkeys(self._trained.wide, LEFT_WIDE)

    @property
    def trained_as(self) -> str:
        """Digest of what was trained, on which measurements depend; "" without any."""
        return "" if self._trained is None else self._trained.digest

    def facts(self) -> dict[str, Json]:
        """For a graph's `measurements`: what it was calibrated on."""
        found: dict[str, Json] = {
            "calibration": {"photos": len(self.photos.names), "digest": self.photos.digest, "method": self._method}
        }
        if self._trained is not None:
            found["trained"] = {"size": list(self._trained.size), "products": len(self._trained.weights)}
        return found
