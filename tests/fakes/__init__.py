"""Stand-ins that tests share."""
