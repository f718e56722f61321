"""No progress bars or advice of other libraries while they load or save; our own progress is shown instead."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from transformers.utils import logging as library


@contextmanager
def quiet_libraries() -> Iterator[None]:
    """transformers says nothing below an error within this block."""
    bars, level = library.is_progress_bar_enabled(), library.get_verbosity()
    library.disable_progress_bar()
    library.set_verbosity(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            yield
    finally:
        library.set_verbosity(level)
        if bars:
            library.enable_progress_bar()
