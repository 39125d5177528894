"""The synthetic data: a written policy, a grammar of requests, and the generator."""
