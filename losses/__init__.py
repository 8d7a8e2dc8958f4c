"""Training losses of SelaVPR++: multi-similarity with its miner, and what codes are learnt by (Table XI)."""

from .hashing import HASHING, HashingMethod, no_quantisation_loss
from .locality import locality_constrained_loss
from .multi_similarity import Pairs, mine_pairs, multi_similarity_loss
from .similarity import similarity_constrained_loss

__all__ = ["HASHING", "HashingMethod", "Pairs", "locality_constrained_loss", "mine_pairs", "multi_similarity_loss",
           "no_quantisation_loss", "similarity_constrained_loss"]
