"""What must stand in the environment before torch is imported."""

THREADS = {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "20000"}
"""How threads wait for work: for some microseconds wide awake, then asleep.

One that sleeps at once is often woken on the core of the thread that waits for it, and a step then takes up to twice as
long; one that never sleeps keeps its core from whoever shares the machine.
"""

SHAPES = {"LRU_CACHE_CAPACITY": "128", "ONEDNN_PRIMITIVE_CACHE_CAPACITY": "128"}
"""For how many shapes of bf16 products on the CPU the code that was made for them is kept.

Each keeps some 0.6 MB. Forests are of almost as many sizes as there are forests, so the 1,024 that torch keeps, and
oneDNN again, fill up with shapes that do not come back, several hundred MB. A forest has 20 to 50, which all its layers
share.
"""

BEFORE_TORCH = THREADS | SHAPES
