"""Reading verdicts from a served file: prompts in, one row of log-probabilities per sample out."""
