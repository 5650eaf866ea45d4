"""Damage to the gray that the network reads in training, but not to the colours it learns: blur, JPEG, fading, noise.

Old and re-compressed photos look like that, and a network that has only seen clean ones paints them too loudly. Strengths are
drawn anew for every crop; the fixed severities that networks are compared with are those of icf_deploy.training.corruptions.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

PEAK = 255  # code of white
BLUR_SHARE = (0.002, 0.014)  # sigma, of the crop's side; 0.5 to 3.6 of 256 pixels
JPEG_QUALITY = (6, 60)  # of 100
FADED_CONTRAST = (0.3, 1.0)  # of the range from black to white that is left
GRAIN = (2.0, 24.0)  # sigma, codes
KINDS = ("blur", "fading", "grain", "JPEG")  # in the order in which they happen to a print that is scanned
SECOND_KIND = 0.3  # probability that a damaged crop has two kinds of damage


@dataclass(frozen=True)
class Damage:
    """What is done to each gray of a batch, all [N]. 0 leaves it alone, in `contrast` 1 does.

    blur: sigma, share of the side. contrast: share of the codes' range. black: code of black, float32. grain: sigma, codes.
    quality: of JPEG, 1 to 100. seed: of the grain, int64.
    """

    blur: npt.NDArray[np.float32]
    contrast: npt.NDArray[np.float32]
    black: npt.NDArray[np.float32]
    grain: npt.NDArray[np.float32]
    quality: npt.NDArray[np.int64]
    seed: npt.NDArray[np.int64]

    @classmethod
    def none(cls, count: int) -> Damage:
        """Leave `count` grays as they are."""
        zero = np.zeros(count, np.float32)
        return cls(zero.copy(), np.ones(count, np.float32), zero.copy(), zero.copy(), *np.zeros((2, count), np.int64))

    def draw(self, index: int, random: np.random.Generator) -> None:
        """Fill place `index` with one kind of damage, or two."""
        chosen = random.choice(len(KINDS), size=1 + int(random.random() < SECOND_KIND), replace=False)
        # All are drawn whatever was chosen, so that a kind's strength does not depend on how many others there are.
        blur = np.exp(random.uniform(*np.log(BLUR_SHARE)))
        contrast = random.uniform(*FADED_CONTRAST)
        black = random.uniform(0, 1 - contrast) * PEAK
        grain = np.exp(random.uniform(*np.log(GRAIN)))
        quality = int(np.exp(random.uniform(*np.log(JPEG_QUALITY))))
        kinds = {KINDS[kind] for kind in chosen}
        if "blur" in kinds:
            self.blur[index] = blur
        if "fading" in kinds:
            self.contrast[index], self.black[index] = contrast, black
        if "grain" in kinds:
            self.grain[index] = grain
        if "JPEG" in kinds:
            self.quality[index] = quality
        self.seed[index] = int(random.integers(2**62))

    def any(self) -> bool:
        """Whether any place is touched."""
        return any(self.damaged(index) for index in range(len(self.seed)))

    def damaged(self, index: int) -> bool:
        """Whether place `index` is touched."""
        return bool(self.blur[index] or self.contrast[index] != 1 or self.grain[index] or self.quality[index])


def damage_gray(gray: npt.NDArray[np.float32], damage: Damage) -> npt.NDArray[np.float32]:
    """gray: float32 [N,1,H,W] in 0..1 -> the same, damaged, a copy. Damaged ones are rounded to the 256 codes of a file."""
    hurt: npt.NDArray[np.float32] = np.array(gray, np.float32)
    for index in range(len(gray)):
        if damage.damaged(index):
            hurt[index, 0] = _damaged(gray[index, 0], damage, index)
    return hurt


def _damaged(gray: npt.NDArray[np.float32], damage: Damage, index: int) -> npt.NDArray[np.float32]:
    codes = gray * np.float32(PEAK)
    if damage.blur[index]:
        sigma = float(damage.blur[index]) * min(gray.shape)
        codes = np.asarray(cv2.GaussianBlur(codes, (0, 0), sigma, borderType=cv2.BORDER_REFLECT_101), np.float32)
    codes = np.asarray(codes * damage.contrast[index] + damage.black[index], np.float32)
    if damage.grain[index]:
        random = np.random.Generator(np.random.Philox(int(damage.seed[index])))
        codes += random.standard_normal(codes.shape, np.float32) * damage.grain[index]
    whole: npt.NDArray[np.uint8] = np.clip(np.rint(codes), 0, PEAK).astype(np.uint8)
    if damage.quality[index]:
        _done, encoded = cv2.imencode(".jpg", whole, [cv2.IMWRITE_JPEG_QUALITY, int(damage.quality[index])])
        whole = np.asarray(cv2.imdecode(encoded, cv2.IMREAD_GRAYSCALE), np.uint8)
    return np.asarray(whole.astype(np.float32) / np.float32(PEAK), np.float32)
