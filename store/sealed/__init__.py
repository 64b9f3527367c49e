"""Sealed runs: Parquet files in a folder or in a tape."""
