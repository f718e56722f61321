"""What is too long for the test suite: kills, faults and hostile input by the thousand, counted in docs/reliability.md.

Every module here but `__main__` is a part. It has one function, `run() -> dict[str, int | float]`, which raises where
a promise is broken and returns what was counted, by what is counted in plain words: {"SIGKILLs": 1000}.
"""
