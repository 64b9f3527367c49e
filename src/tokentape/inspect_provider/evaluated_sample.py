"""The sample that a reply is generated for, and the seed of its runs."""

import hashlib
import os
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluatedSample:
    """An attempt at a sample of an evaluation, in one of its epochs."""

    task: str
    sample_id: str
    epoch: int
    attempt: int
    """Counts the attempts at the sample from 1; see Inspect's `retry_on_error`."""
    sample_uuid: str
    eval_id: str
    eval_set_id: str | None
    log: str
    """The place of the `.eval` log."""

    @property
    def name(self) -> str:
        """The name of the sample's runs."""
        attempt = f", attempt {self.attempt}" if self.attempt > 1 else ""
        return f"{self.task}: sample {self.sample_id}, epoch {self.epoch}{attempt}"

    @property
    def session(self) -> str:
        """Identifies the attempt among all of this process."""
        return f"{self.sample_uuid}/{self.attempt}"

    @property
    def note(self) -> str:
        """Where the sample is logged, for people."""
        return f"Inspect log: {self.log}"

    def to_metadata(self) -> dict[str, Any]:
        """Return what is recorded with the sample's runs."""
        return {
            "inspect": {
                "task": self.task,
                "sample_id": self.sample_id,
                "epoch": self.epoch,
                "attempt": self.attempt,
                "sample_uuid": self.sample_uuid,
                "eval_id": self.eval_id,
                "eval_set_id": self.eval_set_id,
                "log": self.log,
            }
        }


def current_sample() -> EvaluatedSample | None:
    """Return the sample whose code is running, or None outside of evaluations.

    None, too, if another version of Inspect keeps it elsewhere: there is no public function.
    """
    try:
        from inspect_ai.log._samples import sample_active

        active = sample_active()
        if active is None:
            return None
        return EvaluatedSample(
            task=active.task,
            sample_id=str(active.sample.id),
            epoch=active.epoch,
            attempt=active.retries + 1,
            sample_uuid=active.sample_uuid,
            eval_id=active.eval_id,
            eval_set_id=active.eval_set_id,
            log=_absolute(active.log_location),
        )
    except (ImportError, AttributeError):
        return None


def _absolute(place: str) -> str:
    """Return the place of a log, a URL or a path, for readers in any folder."""
    return place if "://" in place else os.path.abspath(place)


def sample_seed(seed: int | None, sample: EvaluatedSample | None, repetition: int = 0) -> int:
    """Return the seed of a sample's runs: of the evaluation's, the sample's id and its epoch.

    `repetition` counts the replies to an equal request before: they are to differ. Without a seed
    of the evaluation it is 0, so that an evaluation gives the same replies again. The seed has 48
    bits, which every format of numbers holds.
    """
    of_sample = "" if sample is None else f"{sample.sample_id}/{sample.epoch}"
    digest = hashlib.sha256(f"{seed or 0}/{repetition}/{of_sample}".encode()).digest()
    return int.from_bytes(digest[:6], "big")
