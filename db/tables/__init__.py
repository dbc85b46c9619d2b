"""The tables of the job table. Times are seconds since 1970-01-01 UTC by the database's clock."""

from db.tables.base import Table
from db.tables.batches import Batch, BatchTotal
from db.tables.cohorts import Cohort, Ingest, Source, Study
from db.tables.events import Event
from db.tables.images import Image, ImageCount
from db.tables.labels import KeptImage, Label, LabelClass
from db.tables.models import Acceptance, Model, Prediction
from db.tables.nights import NightlyRun, NightlySeen
from db.tables.site import Site
from db.tables.training import TrainingResult, TrainingRun

__all__ = [
    "Acceptance",
    "Batch",
    "BatchTotal",
    "Cohort",
    "Event",
    "Image",
    "ImageCount",
    "Ingest",
    "KeptImage",
    "Label",
    "LabelClass",
    "Model",
    "NightlyRun",
    "NightlySeen",
    "Prediction",
    "Site",
    "Source",
    "Study",
    "Table",
    "TrainingResult",
    "TrainingRun",
]
