"""Puts this folder on the path, so that the tests of sections find the runs and the reader of pages beside it."""
