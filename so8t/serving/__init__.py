"""Asking the released model: its decision, and for ALLOW its answer."""
