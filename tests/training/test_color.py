from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import torch
from skimage.color import rgb2lab

from icf_deploy.imaging.color import gray_of_l, lab_of_pixels
from icf_deploy.training.color import codes_of_lab, jittered, light_of_codes, pair_of_light, rgb_of_lab
from icf_deploy.training.crops import Jitter

Pixels = npt.NDArray[np.uint8]


def batch_of(rgb: Pixels) -> torch.Tensor:
    return torch.from_numpy(rgb)[None]


def jitter_of(gains: tuple[float, float, float] = (1, 1, 1), exponent: float = 1, saturation: float = 1) -> Jitter:
    return Jitter(np.array([gains], np.float32), np.array([exponent], np.float32), np.array([saturation], np.float32))


def test_l_and_ab_are_those_of_scikit_image(photo: Callable[[str], Pixels]) -> None:
    rgb = photo("astronaut")
    pair = pair_of_light(light_of_codes(batch_of(rgb)))
    expected = rgb2lab(rgb)  # its matrix and white have five digits, which leaves up to 0.01
    np.testing.assert_allclose(pair.l[0, 0].numpy(), expected[..., 0], atol=0.01)
    np.testing.assert_allclose(pair.ab[0].numpy(), np.moveaxis(expected[..., 1:], 2, 0), atol=0.02)


def test_what_the_network_learns_from_is_what_the_colorizer_computes(photo: Callable[[str], Pixels]) -> None:
    rgb = photo("coffee")
    pair = pair_of_light(light_of_codes(batch_of(rgb)))
    lightness, ab = lab_of_pixels(rgb)
    np.testing.assert_allclose(pair.l[0, 0].numpy(), lightness, atol=1e-4)
    np.testing.assert_allclose(pair.ab[0].numpy(), ab, atol=5e-4)
    np.testing.assert_allclose(pair.gray[0, 0].numpy(), gray_of_l(lightness), atol=2e-6)


def test_every_code_of_gray_is_its_own_gray_and_has_no_colour() -> None:
    ramp = np.repeat(np.arange(256, dtype=np.uint8)[None, :, None], 3, axis=2)
    pair = pair_of_light(light_of_codes(batch_of(ramp)))
    np.testing.assert_allclose(pair.gray[0, 0, 0].numpy(), np.arange(256) / 255, atol=1e-6)
    assert float(pair.ab.abs().max()) < 1e-4


def test_lab_goes_back_to_the_very_codes(photo: Callable[[str], Pixels]) -> None:
    rgb = photo("rocket")
    pair = pair_of_light(light_of_codes(batch_of(rgb)))
    back = codes_of_lab(pair.l, pair.ab)[0].permute(1, 2, 0).numpy()
    assert np.array_equal(back.astype(np.uint8), rgb)


def test_the_gradient_is_finite_everywhere_and_survives_outside_the_gamut() -> None:
    lightness = torch.tensor([0.0, 2.0, 50.0, 98.0, 100.0]).view(5, 1, 1, 1)
    for ab in ([0.0, 0.0], [120.0, -110.0], [-120.0, 110.0]):
        field = torch.tensor(ab).view(1, 2, 1, 1).repeat(5, 1, 1, 1).requires_grad_()
        (rgb_of_lab(lightness, field) ** 2).sum().backward()
        assert field.grad is not None
        assert bool(torch.isfinite(field.grad).all())
        assert float(field.grad[1:].abs().amin(dim=(1, 2, 3)).max()) > 0
    outside = torch.tensor([100.0, 100.0]).view(1, 2, 1, 1).requires_grad_()
    rgb = rgb_of_lab(torch.tensor(90.0).view(1, 1, 1, 1), outside)
    assert float(rgb.detach().max()) > 1  # out of the gamut, and not clipped
    rgb.max().backward()
    assert outside.grad is not None
    assert float(outside.grad.abs().max()) > 1e-4


def test_the_analytic_gradient_is_the_numeric_one() -> None:
    lightness = torch.tensor([[20.0, 70.0]], dtype=torch.float64).view(1, 1, 1, 2)
    ab = torch.tensor([[30.0, -20.0], [60.0, 90.0]], dtype=torch.float64).view(1, 2, 1, 2).requires_grad_()

    def of_ab(field: torch.Tensor) -> torch.Tensor:
        return rgb_of_lab(lightness.float(), field.float()).double()

    value = of_ab(ab)
    (gradient,) = torch.autograd.grad(value.sum(), ab)
    step = 0.05
    for index in np.ndindex(1, 2, 1, 2):
        moved = ab.detach().clone()
        moved[index] += step
        back = ab.detach().clone()
        back[index] -= step
        numeric = (of_ab(moved).sum() - of_ab(back).sum()) / (2 * step)
        assert abs(float(numeric) - float(gradient[index])) < 1e-4


def test_no_jitter_changes_nothing_but_the_deepest_black(photo: Callable[[str], Pixels]) -> None:
    light = light_of_codes(batch_of(photo("coffee")))
    torch.testing.assert_close(jittered(light, jitter_of()), light, atol=2e-6, rtol=1e-5)


def test_gray_follows_the_jitter_of_the_target(photo: Callable[[str], Pixels]) -> None:
    light = light_of_codes(batch_of(photo("coffee")))
    plain, brighter = pair_of_light(light), pair_of_light(jittered(light, jitter_of(gains=(1.2, 1.2, 1.2))))
    assert float(brighter.gray.mean()) > float(plain.gray.mean()) + 0.02
    torch.testing.assert_close(brighter.gray[0, 0], torch.from_numpy(gray_of_l(brighter.l[0, 0].numpy())), atol=2e-6, rtol=0)


def test_saturation_changes_chroma_and_leaves_luminance(photo: Callable[[str], Pixels]) -> None:
    light = light_of_codes(batch_of(photo("coffee"))) * 0.5
    plain, paler = pair_of_light(light), pair_of_light(jittered(light, jitter_of(saturation=0.5)))
    torch.testing.assert_close(paler.gray, plain.gray, atol=1e-4, rtol=0)
    assert float(paler.ab.norm(dim=1).mean()) < 0.7 * float(plain.ab.norm(dim=1).mean())
