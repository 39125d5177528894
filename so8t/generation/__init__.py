"""Running one file: its answers, long texts, perplexity and speed."""
