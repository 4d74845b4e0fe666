"""What runs inside the training process: run, loop context, journal, checkpoints. Standard library alone."""
