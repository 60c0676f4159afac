"""Relations between tasks: measures of affinity, and what to do with them."""
