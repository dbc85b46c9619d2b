"""How many labelled images an acceptance needs."""

from __future__ import annotations

import json

import pytest

from training.acceptance.sample_size import images_for, interval_width, sample_size
from training.evaluation.measures import proportion


@pytest.mark.parametrize("share", [0.5, 0.9, 0.95, 0.99])
@pytest.mark.parametrize("width", [0.05, 0.1, 0.3])
def test_so_many_images_give_that_width_and_fewer_do_not(share: float, width: float) -> None:
    images = images_for(share, width)
    assert interval_width(share, images) <= width < interval_width(share, images - 1)


def test_the_width_is_that_of_the_interval_that_accept_prints() -> None:
    measure = proportion(95, 100)
    assert measure.low is not None
    assert measure.high is not None
    assert interval_width(0.95, 100) == pytest.approx(measure.high - measure.low)


def test_the_rarer_class_decides_how_many_have_to_be_read() -> None:
    found = sample_size(sensitivity=0.95, specificity=0.9, width=0.1, prevalence=0.3)
    # Buderer's normal approximation: 1.96² · 0.95 · 0.05 / 0.05² = 73, and 138 for 0.9.
    assert 73 <= found.positive <= 90
    assert 138 <= found.negative <= 150
    assert found.consecutive == -(-found.positive * 10 // 3)
    rare = sample_size(sensitivity=0.95, specificity=0.9, width=0.1, prevalence=0.05)
    assert rare.consecutive == found.positive * 20


def test_the_command_prints_it(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    from scheduler.cli import main

    monkeypatch.setattr("sys.argv", ["pneumoscreen", "sample-size", "--prevalence", "0.1", "--json"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert not ended.value.code
    assert json.loads(capsys.readouterr().out).keys() == {"positive", "negative", "consecutive"}
