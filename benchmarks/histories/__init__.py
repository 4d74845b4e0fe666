"""Propagation on real histories: several statements, guarded blocks, helpers, imports, several files.

`python -m benchmarks.histories.build --mirror DIR --out FILE` mines cases from bare clones (`DIR/owner+name/repo`),
`python -m benchmarks.histories.score FILE` asks for each of them and prints the table. The cases hold other people's code
and are never committed; docs/propagation.md has the figures, with the commits that they were mined from.
"""
