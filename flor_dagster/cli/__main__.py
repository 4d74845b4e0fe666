"""`python -m flor_dagster.cli`."""

from flor_dagster.cli import main

main()
