"""Checkpoints on disk: safetensors and JSON, whole or not there at all."""
