"""Relations between tasks: measures of their affinity, and what to train together.

Start with `mtrl relations` (docs/relations.md). `measures` has the formulas as functions of arrays, `transfer` those of
results of runs.
"""

from mtrl.networks.task_groups import groups, tree
from mtrl.relations.networks import Network, choose_networks

__all__ = ["Network", "choose_networks", "groups", "tree"]
