"""The measurement of a registered model on labelled images of this site."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from db.engine import Database
from db.models.card import ModelCard
from db.models.registry import registered_card
from db.tables import Model
from db.trust.acceptances import Measured, write_acceptance
from training.acceptance.criteria import Criteria, Verdict, judge
from training.acceptance.figures import Figures, figures_of
from training.data.classes import CLASSES
from training.data.dataset import Dataset, fingerprint, read_held_out
from training.data.labelled import find_labelled
from training.outcome import Answers, HeldOut
from worker.runtime.loading import load_model
from worker.runtime.passes import outputs_of
from worker.runtime.protocol import Precision
from worker.settings import WorkerSettings


@dataclass(frozen=True, slots=True, kw_only=True)
class SiteImages:
    """Labelled images of a site, of which nothing is learned, and one model's probabilities on them."""

    card: ModelCard
    images: HeldOut
    #: float64, (N, classes): the model's class probabilities.
    probabilities: NDArray[np.float64]
    #: SHA-256 over the set of (file digest, class) pairs.
    fingerprint: str
    unreadable: int
    #: Digests of files that were left out because their labels contradict one another.
    contradicting: tuple[str, ...]

    @property
    def answers(self) -> Answers:
        """The model's answers, with its own threshold."""
        positive: NDArray[np.float64] = self.probabilities[:, self.card.positive_columns].sum(axis=1)
        return Answers(self.card.model_id, positive, self.card.threshold)


@dataclass(frozen=True, slots=True, kw_only=True)
class Acceptance:
    """What a model measured at a site, and the verdict, as they were recorded."""

    model: str
    figures: Figures
    criteria: Criteria
    verdict: Verdict
    #: Who measured.
    by: str

    def as_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {
            "model": self.model,
            "accepted": self.verdict.accepted,
            "reasons": list(self.verdict.reasons),
            "criteria": self.criteria.as_json(),
            "figures": asdict(self.figures),
            "by": self.by,
        }


def read_site(
    database: Database,
    model: Model,
    data: Path,
    *,
    types: bool = False,
    on_step: Callable[[str], None] = lambda _: None,
) -> SiteImages:
    """Read a folder that holds NORMAL/ and PNEUMONIA/, and let a registered model judge its images.

    With `types`, images have the model's own classes: a temperature is fitted on these.
    Raises LabelledFolderMissing, ModelMissing, ModelInvalid, ModelPreprocessingMismatch, ModelDigestMismatch,
    ModelWeightsUnfit.
    """
    card = registered_card(model)
    on_step("reading images ...")
    dataset: Dataset = read_held_out(find_labelled(data), card.classes if types else CLASSES)
    on_step("loading the model ...")
    runtime = load_model(database.models_folder / model.name, digest=model.weights_digest, card=card)
    on_step(f"measuring {len(dataset)} images ...")
    size = WorkerSettings.read().forward_images
    rows = outputs_of(runtime, dataset.pictures.pixels, Precision.FP32, size).probabilities
    return SiteImages(
        card=card,
        images=dataset.held_out_images(),
        probabilities=rows.astype(np.float64),
        fingerprint=fingerprint(dataset.pictures.digests, dataset.labels),
        unreadable=len(dataset.pictures.unreadable),
        contradicting=tuple(dataset.contradicting),
    )


def accept(
    database: Database,
    site: SiteImages,
    answers: Answers,
    *,
    criteria: Criteria,
    by: str | None = None,
) -> Acceptance:
    """Measure answers on images of a site, and record the verdict for the model that they name.

    They are those of the model that judged the images, or of a version of it, and are shown beside its card.
    Predictions are not affected. Raises ModelUnknown.
    """
    figures = figures_of(answers, site.images, site.card)
    verdict = judge(figures, criteria)
    measured = Measured(
        model=answers.model,
        accepted=verdict.accepted,
        images=figures.n,
        data_fingerprint=site.fingerprint,
        figures={"criteria": criteria.as_json(), **figures.as_json()},
        reasons=verdict.reasons,
    )
    with database.write() as session:
        who = write_acceptance(session, measured, by=by).by
    return Acceptance(model=answers.model, figures=figures, criteria=criteria, verdict=verdict, by=who)
