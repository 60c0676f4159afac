"""Optimisation: parameter groups, precision, and the hardware they run on."""
