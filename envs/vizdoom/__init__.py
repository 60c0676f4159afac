"""Scenarios of ViZDoom, a 3-D shooter seen through its screen, as task suites."""
