"""A simple model of the job table."""

from __future__ import annotations

from dataclasses import dataclass, field

from db.jobs.sweep import ATTEMPTS

#: Cohort and source of an ingest.
Key = tuple[str, str]
#: Problems after which another copy of the instance is screened.
GIVES_PLACE_UP = ("corrupt-image", "file-vanished", "worker-lost", "no-pixels")


@dataclass
class ModelBatch:
    """A batch, as the model sees it."""

    cohort: str
    images: list[int]
    #: Row id of the source that its images come from, and of the model that is to screen them.
    source: int
    model: int
    state: str = "queued"
    attempts: int = 0


@dataclass
class ModelTable:
    """Cohorts, ingests, images, batches and leases."""

    #: State or problem of each image, in the order of their rows.
    images: dict[int, str] = field(default_factory=dict)
    cohort_of: dict[int, str] = field(default_factory=dict)
    instance_of: dict[int, str | None] = field(default_factory=dict)
    source_of: dict[int, int] = field(default_factory=dict)
    #: Sources that are unavailable, and whether it is time to try them again.
    unavailable: dict[int, bool] = field(default_factory=dict)
    #: ingesting, ready, cancelled or archived.
    cohorts: dict[str, str] = field(default_factory=dict)
    #: Token and state of the ingest of each cohort and source.
    ingests: dict[Key, tuple[str, str]] = field(default_factory=dict)
    batches: dict[int, ModelBatch] = field(default_factory=dict)
    #: Row id of the model that screens what is cut from now on.
    champion: int = 0
    #: The batch of each lease that is held.
    leases: dict[str, int] = field(default_factory=dict)

    def lose(self, batch_id: int) -> None:
        """Expire the lease of a batch; if the batch is split, the caller adds its parts."""
        batch = self.batches[batch_id]
        self.leases = {token: held for token, held in self.leases.items() if held != batch_id}
        if self.cohorts[batch.cohort] == "cancelled":
            batch.state = "cancelled"
            self.move(batch, "cancelled")
        elif batch.attempts < ATTEMPTS:
            batch.state = "queued"
            self.move(batch, "queued")
        elif len(batch.images) > 1:
            batch.state = "split"
            self.move(batch, "queued")
        else:
            batch.state = "done"
            self.move(batch, "worker-lost")
            self.take_over(batch.images)

    def of(self, cohort: str) -> list[int]:
        """Return a cohort's images."""
        return [image for image, theirs in self.cohort_of.items() if theirs == cohort]

    def copies(self, image: int) -> list[int]:
        """Return all copies of an image in its cohort, also itself; none if it has no instance."""
        instance = self.instance_of[image]
        same = self.of(self.cohort_of[image]) if instance else []
        return [one for one in same if self.instance_of[one] == instance]

    def holds_place(self, image: int) -> bool:
        return self.images[image] not in (*GIVES_PLACE_UP, "duplicate-instance")

    def take_over(self, lost: list[int]) -> None:
        """Make the first duplicate of each lost image pending, if no copy of it is screened."""
        for image in lost:
            copies = self.copies(image)
            duplicates = [one for one in copies if self.images[one] == "duplicate-instance"]
            if self.images[image] in GIVES_PLACE_UP and not any(map(self.holds_place, copies)) and duplicates:
                self.images[duplicates[0]] = "pending"

    def skip_duplicates(self, cohort: str) -> None:
        """Keep one copy of each instance: the one that is screened, or else the first pending one."""
        for image in self.of(cohort):
            others = [one for one in self.copies(image) if one != image and self.holds_place(one)]
            if self.images[image] == "pending" and any(
                self.images[one] != "pending" or one < image for one in others
            ):
                self.images[image] = "duplicate-instance"

    def close(self, cohort: str) -> None:
        self.take_over(self.of(cohort))
        unfinished = [
            state for (its, _), (_, state) in self.ingests.items() if its == cohort and state != "ended"
        ]
        if not unfinished:
            self.cohorts[cohort] = "ready"

    def cut(self, cohort: str, *, size: int, most: int) -> list[ModelBatch]:
        """Return the batches to cut: up to `most` of available sources, one of each source to try again."""
        if self.cohorts[cohort] == "cancelled":
            return []
        waiting: dict[int, list[int]] = {}
        for image in self.of(cohort):
            if self.images[image] == "pending":
                waiting.setdefault(self.source_of[image], []).append(image)
        under_way = [one for one in self.batches.values() if one.state in ("queued", "running")]
        ours = [one for one in under_way if one.cohort == cohort and one.source not in self.unavailable]
        parts = {
            source: [waiting[source][start : start + size] for start in range(0, len(waiting[source]), size)]
            for source in sorted(waiting)
        }
        available = [
            (source, part) for source in parts if source not in self.unavailable for part in parts[source]
        ]
        tried = {one.source for one in under_way}
        tries = [
            (source, parts[source][0])
            for source in parts
            if self.unavailable.get(source) and source not in tried
        ]
        cut = available[: max(most - len(ours), 0)] + tries
        return [ModelBatch(cohort, images, source, self.champion) for source, images in cut]

    def lose_source(self, source: int) -> None:
        """Dissolve the unclaimed batches of a source, and let the source wait."""
        self.unavailable[source] = False
        for batch in self.batches.values():
            if batch.source == source and batch.state == "queued":
                batch.state = "cancelled"
                self.move(batch, "pending")

    def end_ingests(self, cohort: str) -> None:
        for key, (token, _) in self.ingests.items():
            if key[0] == cohort:
                self.ingests[key] = token, "ended"

    def move(self, batch: ModelBatch, state: str) -> None:
        self.images.update(dict.fromkeys(batch.images, state))
