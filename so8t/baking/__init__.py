"""Adapter, rotations and heads folded into a stock model, with the proof of equality."""
