"""What runs inside the training process: run, loop context, journal, checkpoints. Standard library alone."""

from flor_dagster.recording import script

__all__ = ["script"]
