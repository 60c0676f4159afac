"""Meta-World (Yu et al., 2019, arXiv:1910.10897): 50 robot-arm tasks, official environments and goals."""
