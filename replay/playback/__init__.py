"""Playback: a tape that plays the model for an application's tests. Imports no torch."""

from tokentape.replay.playback.errors import PlaybackMismatchError, PlaybackWarning
from tokentape.replay.playback.tape import Playback, playback

__all__ = ("Playback", "PlaybackMismatchError", "PlaybackWarning", "playback")
