"""The reasons why an image was not screened: for each, a class, a stable code and a message."""

from __future__ import annotations

from typing import ClassVar

from db.errors import PneumoscreenError
from db.states import ImageState


class ImageProblem(PneumoscreenError):
    """An image has no prediction."""

    code: ClassVar[str] = "image-problem"
    state: ClassVar[ImageState]


class ImageSkipped(ImageProblem):
    """The image is readable but is not for this system."""

    code = "skipped"
    state = ImageState.SKIPPED


class ImageFailed(ImageProblem):
    """The image should have been screened, but could not be."""

    code = "failed"
    state = ImageState.FAILED


class EmptyFile(ImageFailed):
    """The file is empty. Copy it again from its original place, then `retry` the cohort."""

    code = "empty-file"


class FileVanished(ImageFailed):
    """The file was there when it was added and is gone now. Restore it or its mount, then `retry`."""

    code = "file-vanished"


class SourceAway(ImageFailed):
    """The images' folder or server is unavailable. Restore it; screening then continues by itself.

    Images that have waited for it for `PNEUMOSCREEN_WAIT_DAYS` fail; `retry` makes them pending again.
    """

    code = "source-away"


class WaitedTooLong(ImageFailed):
    """The model, device or decoders were missing for `PNEUMOSCREEN_WAIT_DAYS`. See `doctor`, then `retry`."""

    code = "waited-too-long"


class FileUnreadable(ImageFailed):
    """The file cannot be opened. Let the worker's user read it and its folder, then `retry`."""

    code = "file-unreadable"


class PathTooLong(ImageFailed):
    """The path or URL is longer than 2,600 bytes or than the system allows. Move the file; `submit` again."""

    code = "path-too-long"


class OutsideRoots(ImageFailed):
    """The file, or a link's or redirect's target, is outside `PNEUMOSCREEN_SOURCE_ROOTS`. Copy it inside."""

    code = "outside-roots"


class NotAnImage(ImageFailed):
    """The file is not an image of a known format, whatever its name says. Replace or remove it."""

    code = "not-an-image"


class CorruptImage(ImageFailed):
    """The image is damaged or truncated. Copy or export it again, then `retry`."""

    code = "corrupt-image"


class TooManyPixels(ImageFailed):
    """The image is larger than the limit (`PNEUMOSCREEN_MAX_PIXELS`). Raise the limit if it is genuine."""

    code = "too-many-pixels"


class TooFewPixels(ImageFailed):
    """The image is too small to show a chest (under 64 pixels on a side). Look for the original."""

    code = "too-few-pixels"


class FileTooLarge(ImageFailed):
    """The file is larger than the limit (`PNEUMOSCREEN_MAX_FILE_BYTES`). Raise the limit if it is genuine."""

    code = "file-too-large"


class UnsupportedPixels(ImageFailed):
    """The pixels are stored in a way that is not supported. Export the image as 8 or 16-bit greyscale."""

    code = "unsupported-pixels"


class NoDecoder(ImageFailed):
    """No installed decoder reads this compression. `doctor` lists those of DICOM; else export as PNG."""

    code = "no-decoder"


class FileChanged(ImageFailed):
    """The file was changed after it was added: its size, date or SOP Instance differs. `retry` accepts it.

    `retry` forgets the size and date. Another SOP Instance is another image: submit it to another cohort.
    """

    code = "file-changed"


class DecoderCrashed(ImageFailed):
    """The decoder crashed twice on this image. It may be malicious: find out where it comes from."""

    code = "decoder-crashed"


class DecoderTimeout(ImageFailed):
    """Decoding the image takes longer than the limit (`PNEUMOSCREEN_DECODE_SECONDS`). Look at the image."""

    code = "decoder-timeout"


class DecoderMemory(ImageFailed):
    """Decoding needs more memory than the limit (`PNEUMOSCREEN_DECODER_MEMORY_BYTES`). Look at the image."""

    code = "decoder-memory"


class WorkerLost(ImageFailed):
    """The worker died twice while it held this image alone. Look at the image and the worker's log."""

    code = "worker-lost"


class OutOfMemory(ImageFailed):
    """The device ran out of memory on this image alone. Free the device or use one with more memory."""

    code = "out-of-memory"


class ScreeningFailed(ImageFailed):
    """Screening this image failed with an unexpected error. The worker's log has it; please report it."""

    code = "screening-failed"


class BrokenModelOutput(ImageFailed):
    """The model gave no finite probability for this image. Check the model with `pneumoscreen doctor`."""

    code = "broken-model-output"


class NoContrast(ImageFailed):
    """The picture is almost of one brightness. Look at the file's window and bits, and export it again."""

    code = "no-contrast"


class NarrowRange(ImageFailed):
    """The picture uses a small part of the greys, as 12 bits shown in 16 do. Export it with its window."""

    code = "narrow-range"


class FewGreys(ImageFailed):
    """The picture is next to black and white, without greys. Export it with the window of a radiograph."""

    code = "few-greys"


class NoStructure(ImageFailed):
    """The picture is noise: no part of it differs from the others. Look for the original of the file."""

    code = "no-structure"


class NoPixels(ImageSkipped):
    """The DICOM object holds no image (a report, a presentation state or an image header alone)."""

    code = "no-pixels"


class NotRadiograph(ImageSkipped):
    """Modality or SOP Class is not that of a radiograph, or of a capture (OT, SC) that names the chest.

    Set `PNEUMOSCREEN_CHEST_ONLY` if all captures of the sources are chest films.
    """

    code = "not-radiograph"


class NotChest(ImageSkipped):
    """The header names another body part than the chest, or is that of a mammogram or of teeth."""

    code = "not-chest"


class LateralView(ImageSkipped):
    """The header says that this is a lateral view. The models know frontal views (AP, PA) only."""

    code = "lateral-view"


class ObliqueView(ImageSkipped):
    """The header says that this is an oblique view. The models know frontal views (AP, PA) only."""

    code = "oblique-view"


class ForProcessing(ImageSkipped):
    """The image is For Processing, raw detector data. Send the For Presentation image of the exposure."""

    code = "for-processing"


class MultiFrame(ImageSkipped):
    """The object has more than one frame; a chest radiograph has one."""

    code = "multi-frame"


class ColourImage(ImageSkipped):
    """The DICOM image is in colour, so it is no radiograph but a photograph, a screenshot or an overlay."""

    code = "colour-image"


class DuplicateInstance(ImageSkipped):
    """Another copy of the same SOP Instance is screened in the cohort. If it fails, this one is next."""

    code = "duplicate-instance"


class Unfamiliar(ImageSkipped):
    """The picture is unlike the training pictures. To screen it, set `PNEUMOSCREEN_UNFAMILIAR=flag`."""

    code = "unfamiliar"


class Cancelled(ImageSkipped):
    """The cohort was cancelled before this image was screened. `retry` makes it pending again."""

    code = "cancelled"


def every_problem() -> dict[str, type[ImageProblem]]:
    """Return every concrete image problem by its code."""
    return {
        problem.code: problem for kind in (ImageSkipped, ImageFailed) for problem in kind.__subclasses__()
    }
