"""What the methods claim, tried at small scale: `python -m evidence reward` runs recipes/evidence and writes a page."""
