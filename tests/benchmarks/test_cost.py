from __future__ import annotations

import pytest

from icf_deploy.benchmarks.cost import Offer, Prices, cost_of, headline, price_text


def cost(rate: float | None, threads: int = 2, *, on_gpu: bool = False, prices: Prices = Prices()):  # noqa: B008
    return cost_of(rate, threads, on_gpu=on_gpu, prices=prices, joules_per_photo=0.5, memory_peak=10)


def test_a_thousand_photos_on_two_cores_cost_two_cores() -> None:
    found = cost(40.0, prices=Prices(per_core_hour=0.09))
    assert (found.seconds_per_1000, found.core_seconds_per_1000) == (25.0, 50.0)
    assert found.photos_per_second_per_core == 20.0
    assert found.price_per_1000 == pytest.approx(50 / 3600 * 0.09)
    assert (found.price_basis, found.price_per_hour) == ("core-hour", 0.09)


def test_an_engine_on_the_gpu_is_paid_by_the_gpu_hour() -> None:
    found = cost(500.0, threads=4, on_gpu=True, prices=Prices(per_core_hour=0.09, per_gpu_hour=1.8))
    assert found.price_per_1000 == pytest.approx(2 / 3600 * 1.8)
    assert found.price_basis == "gpu-hour"
    assert cost(500.0, on_gpu=True, prices=Prices(per_core_hour=0.09)).price_per_1000 is None


def test_without_a_rate_or_a_price_nothing_is_invented() -> None:
    assert cost(None, prices=Prices(1.0, 1.0)).price_per_1000 is None
    assert cost(None).seconds_per_1000 is None
    assert cost(40.0).price_per_1000 is None


def test_the_headline_sets_the_quickest_engine_against_pytorch_eager() -> None:
    offers = [
        Offer("ort", "ort", "edge", cost(40)),
        Offer("openvino", "openvino", "edge", cost(50)),
        Offer("pytorch", "pytorch", "edge", cost(25)),
        Offer("tiny ort", "ort", "another network", cost(1000)),
    ]
    text = headline(offers)
    assert text == "1,000 photos take 20 s of this machine with openvino and 40 s with PyTorch eager, 2 times as long"


def test_the_headline_names_the_price() -> None:
    prices = Prices(per_core_hour=0.36)
    offers = [Offer("ort", "ort", "e", cost(40, prices=prices)), Offer("pytorch", "pytorch", "e", cost(10, prices=prices))]
    text = headline(offers)
    assert text is not None and text.endswith("4 times as long; at 0.36 per core-hour that is 0.005 and 0.02")


def test_prices_by_different_hours_stand_beside_their_amounts() -> None:
    prices = Prices(per_core_hour=0.36, per_gpu_hour=3.6)
    offers = [
        Offer("trt", "trt", "e", cost(1000, on_gpu=True, prices=prices)),
        Offer("pytorch", "pytorch", "e", cost(10, prices=prices)),
    ]
    text = headline(offers)
    assert text is not None and text.endswith("that is 0.001 at 3.6 per gpu-hour and 0.02 at 0.36 per core-hour")


def test_a_headline_without_pytorch_or_without_rows_claims_no_comparison() -> None:
    assert headline([Offer("ort", "ort", "e", cost(40))]) == "1,000 photos take 25 s of this machine with ort"
    assert headline([Offer("pytorch", "pytorch", "e", cost(40))]) == "1,000 photos take 25 s of this machine with pytorch"
    assert headline([Offer("ort", "ort", "e", cost(None))]) is None
    assert headline([]) is None


@pytest.mark.parametrize(("price", "text"), [(0.000012345, "0.0000123"), (1.5, "1.5"), (1234.5, "1230"), (None, "-")])
def test_a_price_is_written_without_powers_of_ten(price: float | None, text: str) -> None:
    assert price_text(price) == text
