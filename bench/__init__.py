"""Truing beside TRL and transformers, measured: `make bench`, or `python -m bench --help`."""
