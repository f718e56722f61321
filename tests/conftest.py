"""What every test gets: shapes checked, no network, one thread, its own cache folder, the same examples every run."""

from __future__ import annotations

import os

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

from jaxtyping import install_import_hook

# Shapes in annotations are claims; here beartype holds every call to them. It must run before the modules are imported.
install_import_hook(
    [
        "truing.tensors",
        "truing.objectives",
        "truing.reductions",
        "truing.advantages",
        "truing.shaping",
        "truing.rivals",
        "truing.algorithms",
        "truing.packing",
        "truing.compute.head",
        "truing.compute.generate.sampling",
    ],
    "beartype.beartype",
)

import hypothesis  # noqa: E402
import pytest  # noqa: E402
import torch  # noqa: E402

hypothesis.settings.register_profile("truing", derandomize=True, deadline=None, database=None)
hypothesis.settings.load_profile("truing")
torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test reads what another one, or the user, left in the cache."""
    monkeypatch.setenv("TRUING_CACHE", str(tmp_path_factory.getbasetemp() / "truing-cache"))
