"""Models, the token-by-token engine, tools and investigations."""

import lazy_loader

# Names are imported when they are first used: errors and plans need no torch.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
