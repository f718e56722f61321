"""A run folder to one self-contained HTML page, and several of them to one page side by side."""

from truing.report.page import build, compare, contest

__all__ = ["build", "compare", "contest"]
