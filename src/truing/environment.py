"""What must stand in the environment before torch is imported."""

THREADS = {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "20000"}
"""How threads wait for work: for some microseconds wide awake, then asleep.

One that sleeps at once is often woken on the core of the thread that waits for it, and a step then takes up to twice as
long; one that never sleeps keeps its core from whoever shares the machine.
"""
