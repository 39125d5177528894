"""What a run will need on this machine, before it starts."""
