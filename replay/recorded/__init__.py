"""The recorded side of a replay: a run read once, and checks of it that need no forward."""
