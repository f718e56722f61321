"""Scorers: whole Groups in, one score per answer out. A failure is a status with a reason, never a number."""
