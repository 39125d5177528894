"""Measuring one served file: verdicts, prose, long-form stability, speed and what fine-tuning cost."""
