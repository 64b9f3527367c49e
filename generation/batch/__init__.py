"""Several sequences of one model at once: their next tokens share forwards."""

from tokentape.generation.batch.batch import Batch
from tokentape.generation.batch.job import BatchEnded, Job
from tokentape.generation.batch.member import Member, current_member, member_for
from tokentape.generation.batch.shared_prefixes import SharedPrefix

__all__ = ("Batch", "BatchEnded", "Job", "Member", "SharedPrefix", "current_member", "member_for")
