"""The part of `truing import` that reads pickles, alone in a process of its own under limits.

It is run by its text and imports nothing of Truing: torch reads weights and nothing else (`weights_only`), and where it
refuses there is no other way. What is written is safetensors, a tensor each without shared memory.
"""

from __future__ import annotations

import json
import os
import resource
import sys


def main() -> None:
    """Takes a job from standard input, converts one file after the other, and says what was wrong, if anything."""
    job = json.load(sys.stdin)
    for limit, value in (
        (resource.RLIMIT_CPU, job["seconds"]),
        (resource.RLIMIT_FSIZE, job["bytes"]),
        (resource.RLIMIT_CORE, 0),
    ):
        resource.setrlimit(limit, (value, value))
    import torch
    from safetensors.torch import save_file

    # Once torch is there, whose own libraries take much room and differ from build to build.
    if os.path.exists("/proc/self/statm"):
        with open("/proc/self/statm") as file:
            taken = int(file.read().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (taken + job["memory"],) * 2)
    for source, target in job["files"]:
        try:
            found = torch.load(source, map_location="cpu", weights_only=True)
        except MemoryError:
            raise SystemExit(f"{source}: it takes more memory than a file of its size may") from None
        except Exception as error:  # whatever a made-up pickle may raise
            raise SystemExit(f"{source}: torch refuses it: {str(error).splitlines()[0][:300]}") from None
        tensors = found if isinstance(found, dict) else {}
        if not tensors or not all(isinstance(name, str) and torch.is_tensor(one) for name, one in tensors.items()):
            raise SystemExit(f"{source}: it holds no table of tensors by name, as weights are")
        save_file({name: one.detach().contiguous().clone() for name, one in tensors.items()}, target, {"format": "pt"})


if __name__ == "__main__":
    main()
