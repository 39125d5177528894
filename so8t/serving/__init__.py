"""The released model in its user's hands."""
