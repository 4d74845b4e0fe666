"""How much faster is hindsight than running everything again? The parts of `benchmarks/replay.py`."""
