"""Reading verdicts from a model file: prompts in, one row of log-probabilities per sample out."""
