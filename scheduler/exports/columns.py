"""The columns of a results table: what each holds, and when it is empty."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from db.errors import PneumoscreenError


class ColumnUnknown(PneumoscreenError):
    """A results table has no such column. Choose from the names at the end, separated by commas."""

    code = "column-unknown"


class ColumnHidden(PneumoscreenError):
    """The column holds identifiers. Add the option at the end if the table may hold them."""

    code = "column-hidden"


class Kind(StrEnum):
    """The type of a column's values."""

    TEXT = "text"
    INTEGER = "integer"
    #: 0 to 1, double precision; six digits in CSV and JSON.
    PROBABILITY = "number"


@dataclass(frozen=True, slots=True)
class Column:
    """One column. Its name is that of a field of `ResultRow`."""

    name: str
    kind: Kind
    meaning: str
    #: When a row has no value in it.
    empty: str
    #: The option without which the table does not have it; empty if it always does.
    option: str = ""


_NO_DICOM = "the file is not DICOM or does not say it"
_NO_PREDICTION = "there is no prediction"
_MAY_HAVE_ONE = "there is a prediction, or there may still be one"
_NO_TYPES = "there is no prediction, or the model does not distinguish types"

#: In the order of the table. Scripts rely on the first eleven: a new column is added at the end.
COLUMNS = (
    Column("cohort", Kind.TEXT, "Name of the cohort.", "never"),
    Column(
        "study", Kind.TEXT, "Pseudonym of the Study Instance UID; with `--identifiers` the UID.", _NO_DICOM
    ),
    Column(
        "series", Kind.TEXT, "Pseudonym of the Series Instance UID; with `--identifiers` the UID.", _NO_DICOM
    ),
    Column(
        "instance", Kind.TEXT, "Pseudonym of the SOP Instance UID; with `--identifiers` the UID.", _NO_DICOM
    ),
    Column(
        "source",
        Kind.TEXT,
        "`sha256:` and the digest of the file as it was screened, or `image:` and the number of the image if "
        "it was never read; with `--identifiers` the path or URL.",
        "never",
    ),
    Column(
        "state",
        Kind.TEXT,
        "`done`, `skipped` or `failed`; before that `pending`, `queued` or `running`.",
        "never",
    ),
    Column("probability", Kind.PROBABILITY, "P(PNEUMONIA), calibrated.", _NO_PREDICTION),
    Column(
        "label",
        Kind.TEXT,
        "`PNEUMONIA` if the probability, with all its digits, is the threshold or above, else `NORMAL`.",
        _NO_PREDICTION,
    ),
    Column("threshold", Kind.PROBABILITY, "The model's threshold at that time.", _NO_PREDICTION),
    Column("model", Kind.TEXT, "Id of the model.", _NO_PREDICTION),
    Column(
        "error",
        Kind.TEXT,
        "The [code](codes.md) that says why there is no prediction.",
        "there is one, or can still be",
    ),
    Column("type", Kind.TEXT, "The most probable type of pneumonia.", _NO_TYPES),
    Column("type_probability", Kind.PROBABILITY, "The probability of that type.", _NO_TYPES),
    Column(
        "image", Kind.INTEGER, "Number of the image: `pneumoscreen show image NUMBER` explains it.", "never"
    ),
    Column("patient", Kind.TEXT, "Pseudonym of the Patient ID under the site's key.", _NO_DICOM),
    Column(
        "time", Kind.TEXT, "When the prediction was made: ISO 8601 in UTC, to the second.", _NO_PREDICTION
    ),
    Column("precision", Kind.TEXT, "Number format of the forward pass, such as `fp32`.", _NO_PREDICTION),
    Column("runtime", Kind.TEXT, "Library, version and kind of device.", _NO_PREDICTION),
    Column("preprocessing", Kind.TEXT, "Version of the preprocessing.", _NO_PREDICTION),
    Column("software", Kind.TEXT, "Version of pneumoscreen.", _NO_PREDICTION),
    Column("file", Kind.TEXT, "Path of the file within the source that was submitted.", "never", "--names"),
    Column(
        "accession",
        Kind.TEXT,
        "Accession Number of the study.",
        f"{_NO_DICOM}, or `PNEUMOSCREEN_KEEP_ACCESSION` was off when the study was added",
        "--accession",
    ),
    Column(
        "familiarity",
        Kind.PROBABILITY,
        "How familiar the picture is to the model: the share of unseen pictures of the training hospital "
        "that are less like the training pictures.",
        "there is no prediction, or the model cannot tell",
    ),
    Column(
        "caution",
        Kind.TEXT,
        "Why the prediction needs care: [codes](codes.md), separated by spaces.",
        "there is no prediction, or nothing is known against it",
    ),
    Column(
        "acceptance",
        Kind.TEXT,
        "`accepted` if the model met the criteria when `pneumoscreen accept` last measured it at this site, "
        "else `not accepted at this site`.",
        _NO_PREDICTION,
    ),
)

NAMES = tuple(column.name for column in COLUMNS)


def choose_columns(options: Sequence[str], names: Sequence[str] = ()) -> tuple[Column, ...]:
    """Return the columns of these names in their order, by default all that these options allow.

    Raises ColumnUnknown, ColumnHidden.
    """
    known = {column.name: column for column in COLUMNS}
    if not names:
        return tuple(column for column in COLUMNS if not column.option or column.option in options)
    if set(names) - set(known):
        raise ColumnUnknown(", ".join(known))
    chosen = tuple(known[name] for name in dict.fromkeys(names))
    missing = sorted({column.option for column in chosen if column.option} - set(options))
    if missing:
        raise ColumnHidden(", ".join(missing))
    return chosen
