"""Training, adapters and the bake: everything that changes weights."""
