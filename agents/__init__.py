"""The learners."""


def register() -> None:
    """Plug-in hook: importing the modules registers their classes."""
    from agents import ppo, sac  # noqa: F401
    from agents.distillation import beside_rl, distill  # noqa: F401
