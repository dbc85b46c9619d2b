"""From the bytes of a file to the 224x224 picture that a model sees: the one preprocessing."""

from db.models.card import PREPROCESSING
from worker.imaging.limits import Limits
from worker.imaging.picture import SIDE, Picture
from worker.imaging.reader import decode, read_bytes, read_picture

__all__ = ["PREPROCESSING", "SIDE", "Limits", "Picture", "decode", "read_bytes", "read_picture"]
