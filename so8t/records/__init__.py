"""Side records under `database/`: outside the graph and git, never able to fail a stage."""
