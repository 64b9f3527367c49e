"""Experiment plans: investigations as data, and the functions that load and run them."""

import lazy_loader

# Names are imported when they are first used: reading a plan needs no torch.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
