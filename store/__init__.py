"""Storage of recordings: a live database, sealed Parquet files and tapes, and data frames."""

import lazy_loader

# Names are imported when they are first used: listing the runs of a database needs no pandas.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
