"""Adaptive precision: bfloat16 for clear-cut pictures, single precision for all others."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from worker.runtime.torch import Precision, ResidentLearner, positive_probability

#: A picture is clear-cut where the log odds of P(PNEUMONIA) in bfloat16 are at least so far from 0 (P below
#: 0.018 or above 0.982) ...
CLEAR_LOG_ODDS = 4.0

#: ... and from those of the threshold. With the shipped model, bfloat16 moved the log odds of 1,428
#: radiographs by at most 0.46; so the labels are those of single precision. Of the probabilities that are
#: kept, none moved by more than 0.008; a tenth of the pictures is computed again.
MARGIN_LOG_ODDS = 1.5


@dataclass(frozen=True, slots=True)
class Row:
    """Class probabilities of one picture: float32, (classes,)."""

    values: NDArray[np.float32]
    precision: Precision


def native_bf16(device: torch.device) -> bool:
    """Tell whether a device computes bfloat16 itself; one that imitates it is slower than in fp32."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    capabilities = torch.cpu.get_capabilities()
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16") or capabilities.get("bf16"))


def is_clear_cut(learner: ResidentLearner, row: NDArray[np.float32]) -> bool:
    """Tell whether class probabilities in bfloat16, (classes,), give the label of single precision."""
    found = _log_odds(float(positive_probability(learner.card, row[None])[0]))
    threshold = _log_odds(learner.card.threshold)
    return abs(found) >= CLEAR_LOG_ODDS and abs(found - threshold) >= MARGIN_LOG_ODDS


def _log_odds(probability: float) -> float:
    # Saturated in single precision is clear-cut, not infinite; NaN stays NaN, and is never clear-cut.
    tiny = 1e-7
    bounded = np.clip(probability, tiny, 1 - tiny)
    return float(np.log(bounded) - np.log1p(-bounded))
