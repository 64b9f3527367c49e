"""Replays of whole tapes with outcomes as data: the unit of work of a batch."""
