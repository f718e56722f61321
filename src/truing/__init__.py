"""Truing: align language models with what people want, and know whether it worked."""

__version__ = "0.1.0"
