"""A against B on the same rows: differences, what could have been seen, drift, a conclusion."""
