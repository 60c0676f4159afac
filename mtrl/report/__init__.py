"""A report of runs: one HTML file with statistics over seeds, curves and matrices."""
