"""How good the decisions of one file are, under its own card."""
