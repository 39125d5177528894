"""SO8T: from a JSONL and a small open model to a calibrated, quantised, verdict-giving GGUF."""

__version__ = "0.1.0"
