"""Atari 2600 games, several at once, on the native threads of ale-py."""
