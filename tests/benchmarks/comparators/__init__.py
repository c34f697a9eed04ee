"""Other people's methods behind the estimator seam; they are measured against, and are not the product's.

unirouter bench DATA --estimator tests.benchmarks.comparators:HierShrink
unirouter bench DATA --estimator tests.benchmarks.comparators.router_dc:RouterDC

The second needs PyTorch (requirements.txt), and so do `graph_router` and `radial_router`.
"""

from .avengers_pro import AvengersPro
from .guarded_neighbours import GuardedNeighbours
from .hier_shrink import HierShrink
from .retrained import RetrainedFactors, RetrainedMLP

__all__ = ["AvengersPro", "GuardedNeighbours", "HierShrink", "RetrainedFactors", "RetrainedMLP"]
