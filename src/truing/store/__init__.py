"""Run folders, artifacts, checkpoints and the protocol that commits them. Files are the truth."""

from truing.store.files import StoreWarning, strict
from truing.store.run import Artifact, Checkpoint, Run, hash_of

__all__ = ["Artifact", "Checkpoint", "Run", "StoreWarning", "hash_of", "strict"]
