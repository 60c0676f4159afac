"""Learning results: trainings of several seeds, and tables and pictures of them."""
