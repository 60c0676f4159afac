"""Time of learning: gradient steps, rollouts and scheduling decisions."""
