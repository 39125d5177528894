"""The report: words and figures made only of numbers from result files, with file and key."""
