"""Several sequences of one model at once: their next tokens share forwards."""

from tokentape.generation.batch.batch import Batch
from tokentape.generation.batch.job import BatchEnded, Job
from tokentape.generation.batch.member import Member, current_member, member_for

__all__ = ("Batch", "BatchEnded", "Job", "Member", "current_member", "member_for")
