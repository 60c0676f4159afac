"""Environments: suites of tasks, the vector environment that plays them, episodes and scores."""
