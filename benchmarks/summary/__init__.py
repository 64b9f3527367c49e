"""All benchmarks in one file and on one page: `python -m benchmarks all` and `page`."""
