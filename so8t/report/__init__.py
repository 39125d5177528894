"""The report: words and figures made only of numbers that lie in result files, each with its file and key."""
