"""The familiarity of a picture: how like those of the training hospital its features are."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from db.models.card import ModelCard, ModelInvalid
from db.models.store import STATISTICS_FILE, read_checked_statistics
from worker.runtime.features import feature_count
from worker.runtime.weights import unpack_weights

#: Pictures whose familiarity is below this are unfamiliar: one in a hundred of the training hospital's own.
UNFAMILIAR_BELOW = 0.01


@dataclass(frozen=True, slots=True)
class Statistics:
    """The features of a training hospital's pictures: what is learnt of them with a model.

    A picture's distance is that of a normal distribution whose covariance is shrunk: the variances along the
    first principal components of the standardised features are kept, and all others are replaced by their
    mean (Tipping and Bishop 1999, "Probabilistic principal component analysis", section 3.2). The distances
    of pictures that the model did not learn from say how usual a distance is.
    """

    #: Mean and standard deviation of each feature on training pictures, float32, (features,).
    mean: NDArray[np.float32]
    scale: NDArray[np.float32]
    #: The principal components of standardised features, float32, (components, features), orthonormal.
    components: NDArray[np.float32]
    #: The variance along each, float32, (components,), and the mean variance along all others, (1,).
    variances: NDArray[np.float32]
    rest: NDArray[np.float32]
    #: The distances of pictures that the model did not learn from, ascending, float32, (held-out pictures,).
    held_out: NDArray[np.float32]

    def distance(self, features: NDArray[np.float32]) -> float:
        """Return the logarithm of a picture's squared distance, from its features (features,).

        It is computed for one picture alone and without a library of linear algebra, whose rounding depends
        on the number of pictures and threads. NaN if a feature is.
        """
        standard = (features - self.mean) / self.scale
        along = np.einsum("kf,f->k", self.components, standard)
        beside = np.maximum(np.square(standard).sum() - np.square(along).sum(), 0)
        squared = (np.square(along) / self.variances).sum() + beside / self.rest[0]
        return float(np.log(np.maximum(squared, np.float32(1e-12))))

    def familiarity(self, distance: float) -> float:
        """Return the share of unseen pictures of the training hospital that are at least as far, 0 to 1.

        The picture itself counts as one of them (Vovk et al. 2005, section 2.3, the p-value of a conformal
        predictor): so the share is uniform on such pictures, however few there are. NaN is farther than all.
        """
        count = len(self.held_out)
        nearer = int(np.searchsorted(self.held_out, np.float32(distance)))
        return (1 + count - nearer) / (1 + count)

    @property
    def limit(self) -> float:
        """The distance beyond which a picture is unfamiliar: that of a held-out one."""
        count = len(self.held_out)
        # Not 297 from a product that is 297.9999.
        farthest = int((count + 1) * (1 - UNFAMILIAR_BELOW) + 1e-6)
        return float(self.held_out[min(farthest, count - 1)])


def is_unfamiliar(familiarity: float | None) -> bool:
    """Tell whether a picture is unfamiliar. None, of a model that cannot tell, is not."""
    return familiarity is not None and familiarity < UNFAMILIAR_BELOW


def load_statistics(folder: Path, card: ModelCard) -> Statistics | None:
    """Return the statistics in a model's folder, None if its card names none.

    Raises ModelMissing, ModelDigestMismatch, ModelInvalid.
    """
    content = read_checked_statistics(folder, card)
    return None if content is None else unpack_statistics(card, content)


def unpack_statistics(card: ModelCard, content: bytes) -> Statistics:
    """Return packed statistics. Raises ModelInvalid if they are not those of the card's backbone."""
    tensors = unpack_weights(content, STATISTICS_FILE)
    if tensors.keys() != {field.name for field in fields(Statistics)}:
        raise ModelInvalid(f"{STATISTICS_FILE} does not hold what it should")
    found = Statistics(**{name: values.astype(np.float32) for name, values in tensors.items()})
    features, components = feature_count(card.backbone), len(found.variances)
    shapes = {
        "mean": (features,),
        "scale": (features,),
        "components": (components, features),
        "variances": (components,),
        "rest": (1,),
        "held_out": (len(found.held_out),),
    }
    fit = all(getattr(found, name).shape == shape for name, shape in shapes.items())
    positive = all((values > 0).all() for values in (found.scale, found.variances, found.rest))
    if not fit or not positive or not len(found.held_out) or (np.diff(found.held_out) < 0).any():
        raise ModelInvalid(f"{STATISTICS_FILE} does not fit the model")
    return found
