"""Encoders: from observations to features, before any policy architecture."""

from mtrl.encoders.encoder import Encoder, encoders
from mtrl.encoders.identity import Identity
from mtrl.encoders.impala import Impala
from mtrl.encoders.mlp import MLPEncoder
from mtrl.encoders.nature import Nature
from mtrl.encoders.normalized import Normalized

__all__ = ["Encoder", "Identity", "Impala", "MLPEncoder", "Nature", "Normalized", "encoders"]
