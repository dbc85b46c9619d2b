"""The dataset of a training run."""

from __future__ import annotations

from training.data.dataset import fingerprint


def test_the_fingerprint_does_not_depend_on_the_order_of_the_data() -> None:
    assert fingerprint(["a", "b"], ["N", "P"]) == fingerprint(["b", "a"], ["P", "N"])
    assert fingerprint(["a", "b"], ["N", "P"]) != fingerprint(["a", "b"], ["P", "N"])
