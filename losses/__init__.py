"""Training losses of SelaVPR++: multi-similarity with its miner, and the similarity-constrained loss."""

from .multi_similarity import Pairs, mine_pairs, multi_similarity_loss
from .similarity import similarity_constrained_loss

__all__ = ["Pairs", "mine_pairs", "multi_similarity_loss", "similarity_constrained_loss"]
