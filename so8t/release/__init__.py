"""What leaves the project: the served file with its card, and the ways to run it."""
