"""A pool of worker processes that step environments."""
