"""Adapter, rotations and heads folded into a stock model, and the proof that it computes the same."""
