"""Trials: each backbone of a run, trained with one seed and stored as a candidate."""

from __future__ import annotations

import gc
import logging
import shutil
from dataclasses import asdict, dataclass

from db.atomic import DiskFull, is_full
from db.database_errors import DatabaseFailed
from db.engine import Database
from db.errors import PneumoscreenError
from db.lease import LeaseLost
from db.models.registry import find_model, import_model
from db.tables import TrainingResult
from db.training.runs import note_result
from training.continued.start import weights_of
from training.data.dataset import Dataset
from training.fitting.backbones import InitialWeights, find_all_initial_weights
from training.fitting.candidate import write_candidate
from training.fitting.fine_tuning import fit_backbone
from training.fitting.loaders import divide
from training.outcome import BackboneOutcome, FailedBackbone
from training.plan import Plan
from training.run.claim import ClaimedRun
from training.run.outcome_file import read_outcome, write_outcome
from training.run.progress import Interrupted, Progress

log = logging.getLogger(__name__)


class TrainingFailed(PneumoscreenError):
    """Training failed for an unexpected reason. The log says more; `retrain --resume` tries again."""

    code = "training-failed"


@dataclass(frozen=True, slots=True)
class Trial:
    """One backbone with one seed."""

    backbone: str
    seed: int
    initial: InitialWeights
    #: Where the trial begins in the whole run, and its share of the run; both from 0 to 1.
    start: float
    share: float

    @property
    def name(self) -> str:
        """The name of the trial's folder."""
        return f"{self.backbone}-{self.seed}"


def find_trials(database: Database, plan: Plan) -> list[Trial]:
    """Return the trials of a run.

    Raises BackboneUnknown, InitialWeightsMissing; if it goes on from a model, what `weights_of` raises.
    """
    recipe = plan.recipe
    if plan.start_from is not None:
        weights = dict.fromkeys(plan.backbones, weights_of(database, plan.start_from))
    else:
        weights = find_all_initial_weights(plan.backbones, plan.weights, plan.random_weights)
    share = 1 / (len(weights) * recipe.seeds)
    pairs = [(backbone, recipe.seed + number) for backbone in weights for number in range(recipe.seeds)]
    return [
        Trial(backbone, seed, weights[backbone], number * share, share)
        for number, (backbone, seed) in enumerate(pairs)
    ]


def run_trial(
    run: ClaimedRun, trial: Trial, dataset: Dataset, former: Dataset | None, progress: Progress
) -> BackboneOutcome | FailedBackbone:
    """Train one backbone, or return the outcome of an earlier try. Its failure does not affect the others."""
    file = run.folder / trial.name / "outcome.json"
    earlier = read_outcome(file)
    if earlier is not None:
        return earlier
    try:
        outcome = _train(run, trial, dataset, former, progress)
    except (LeaseLost, Interrupted, DatabaseFailed):
        raise
    except PneumoscreenError as error:
        problem = error.code
    except OSError as error:
        problem = DiskFull.code if is_full(error) else TrainingFailed.code
        log.exception("training %s failed", trial.backbone)
    except (RuntimeError, ValueError):  # torch's own errors, such as out of memory
        problem = TrainingFailed.code
        log.exception("training %s failed", trial.backbone)
    else:
        write_outcome(file, outcome)
        _record(run, outcome)
        return outcome
    finally:
        gc.collect()
    with run.database.write() as session:
        result = TrainingResult(backbone=trial.backbone, seed=trial.seed, problem=problem, epochs=[])
        note_result(session, run.lease, result)
    return FailedBackbone(backbone=trial.backbone, seed=trial.seed, problem=problem)


def _train(
    run: ClaimedRun, trial: Trial, dataset: Dataset, former: Dataset | None, progress: Progress
) -> BackboneOutcome:
    fitted = fit_backbone(
        trial.backbone,
        divide(dataset, run.plan.recipe, former),
        run.plan.recipe,
        trial.initial,
        seed=trial.seed,
        folder=run.folder / trial.name / "checkpoint",
        on_progress=progress.of_trial(trial.backbone, trial.seed, trial.start, trial.share),
    )
    models = run.folder / "models"
    card, probabilities = write_candidate(
        trial.backbone, fitted, dataset, run.plan.recipe, trial.initial, models, former=former
    )
    import_model(run.database, models / card.model_id)
    shutil.rmtree(models / card.model_id)
    return BackboneOutcome(
        backbone=trial.backbone,
        seed=trial.seed,
        model_id=card.model_id,
        epochs=fitted.epochs,
        probabilities=probabilities,
        temperature=card.temperature,
        threshold=card.threshold,
        seconds=fitted.seconds,
        peak_memory_bytes=fitted.peak_memory_bytes,
        initial_weights_digest=trial.initial.digest,
    )


def _record(run: ClaimedRun, outcome: BackboneOutcome) -> None:
    """Record an outcome in the job table."""
    with run.database.write() as session:
        result = TrainingResult(
            backbone=outcome.backbone,
            seed=outcome.seed,
            model_id=find_model(session, outcome.model_id).id,
            epochs=[asdict(epoch) for epoch in outcome.epochs],
        )
        note_result(session, run.lease, result)
