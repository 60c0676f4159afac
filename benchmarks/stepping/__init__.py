"""Env steps per second, and what comes before the first one."""
