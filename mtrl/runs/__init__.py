"""A run directory: its files, its lock and its logs."""
