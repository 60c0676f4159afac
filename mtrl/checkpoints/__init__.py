"""Checkpoints on disk: folders of safetensors and JSON that are either whole or not there."""
