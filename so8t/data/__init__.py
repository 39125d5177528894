"""Data: a factor grammar with a written policy, ingestion of the user's own files, hygiene, splits, probes."""
