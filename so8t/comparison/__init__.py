"""A against B on the same rows: paired differences, what could have been seen, drift, one conclusion as data."""
