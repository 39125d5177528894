"""The base model: checked or made, loaded, and fed with batches of rows."""
