"""The statistics that tell how familiar a picture is to a trained model, learnt with it."""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save

from db.models.card import FamiliarityCard, ModelCard
from db.models.store import digest_of
from worker.runtime.passes import outputs_of
from worker.runtime.torch.runtime import load
from worker.trust.familiarity import Statistics, unpack_statistics

#: Training pictures that are looked at, chosen by chance: more of them move no percentile by much.
_PICTURES = 1500
#: The fewest pictures of each kind. With fewer than a hundred held-out ones no picture could be stranger than
#: 99% of them.
_LEAST = 100
#: Principal components whose variance is kept. With 32 to 128 the results are the same.
_COMPONENTS = 64
#: Of a feature that hardly varies, the deviation is taken to be this share of the average deviation.
_FLOOR = 1e-3


@dataclass(frozen=True, slots=True)
class Learnt:
    """Statistics as they are stored, and what the card says of them."""

    card: FamiliarityCard
    #: The bytes of `familiarity.safetensors`.
    content: bytes


def learn_familiarity(
    card: ModelCard,
    weights: bytes,
    training: NDArray[np.uint8],
    held_out: NDArray[np.uint8],
    *,
    seed: int = 0,
) -> Learnt | None:
    """Return the statistics of a model's training hospital, None if there are too few pictures.

    Pictures are (N, 224, 224, 3), as a worker makes them: the `training` ones are those that the model learnt
    from, the `held_out` ones are of other patients of the same hospital.
    Raises ModelInvalid, ModelWeightsUnfit, DeviceUnusable.
    """
    if min(len(training), len(held_out)) < _LEAST:
        return None
    chosen = np.sort(np.random.default_rng(seed).permutation(len(training))[:_PICTURES])
    runtime = load(card, weights)
    seen = outputs_of(runtime, training[chosen]).features
    return learn_from_features(card, seen, outputs_of(runtime, held_out).features)


def learn_from_features(
    card: ModelCard, training: NDArray[np.float32], held_out: NDArray[np.float32]
) -> Learnt:
    """Return the statistics of features (N, features) of training pictures and of held-out pictures.

    A model that was trained on all pictures has none that are held out. Its distances of pictures are too
    short then: use those of other patients, from a split of the pictures that the model has not learnt from.
    """
    draft = _distribution(training)
    tensors = {field.name: getattr(draft, field.name) for field in fields(Statistics)}
    # The components in half precision, as they are stored, so that all distances are of the same numbers.
    tensors["components"] = draft.components.astype(np.float16)
    stored = unpack_statistics(card, save(tensors))
    distances = np.sort(np.array([stored.distance(one) for one in held_out], np.float32))
    content = save(tensors | {"held_out": distances})
    told = FamiliarityCard(digest=digest_of(content), images=len(training), held_out=len(held_out))
    return Learnt(told, content)


def _distribution(features: NDArray[np.float32]) -> Statistics:
    """Return the distribution of training features (N, features), without held-out distances."""
    values = features.astype(np.float64)
    mean, spread = values.mean(axis=0), values.std(axis=0)
    scale = spread + max(_FLOOR * float(spread.mean()), 1e-6)
    standard = (values - mean) / scale
    # Eigenvectors of the pictures' products: there are fewer pictures than pairs of features.
    powers, directions = np.linalg.eigh(standard @ standard.T)
    count = min(_COMPONENTS, len(values) // 4)
    powers, directions = powers[::-1], directions[:, ::-1]
    kept = powers[:count]
    components = (directions[:, :count].T @ standard) / np.sqrt(kept)[:, None]
    # The rank of the features' covariance is at most the number of pictures less one.
    others = max(min(len(values) - 1, values.shape[1]) - count, 1)
    rest = max(powers[count:].sum(), 1e-9) / others / len(values)
    single = {"mean": mean, "scale": scale, "components": components, "variances": kept / len(values)}
    return Statistics(
        **{name: np.ascontiguousarray(value, np.float32) for name, value in single.items()},
        rest=np.array([rest], np.float32),
        held_out=np.zeros(1, np.float32),
    )
