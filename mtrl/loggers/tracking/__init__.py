"""Tracking tools of others, each an extra of its own."""
