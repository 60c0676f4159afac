"""Scripts that measure, their protocols, and what they measured."""
