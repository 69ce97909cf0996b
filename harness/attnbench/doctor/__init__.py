"""Is this machine fit to measure on? Findings about it, a self-test against known truths, its ceilings."""
