"""The learners."""


def register() -> None:
    """Plug-in hook: importing the modules registers their classes."""
    from agents import sac  # noqa: F401
