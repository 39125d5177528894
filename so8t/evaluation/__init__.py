"""How good the decisions of one served file are, under its own card."""
