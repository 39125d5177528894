"""Data: a generator with a written policy, reading users' files, hygiene, splits, probes."""
