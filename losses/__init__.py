"""Training losses of SelaVPR++: multi-similarity with its miner, and what codes learn by (equation 15, Table XI)."""

from .ablations import ablated_hashing_losses
from .locality import gaussian_error_loss, locality_constrained_loss
from .multi_similarity import Pairs, mine_pairs, multi_similarity_loss
from .similarity import similarity_constrained_loss

__all__ = ["Pairs", "ablated_hashing_losses", "gaussian_error_loss", "locality_constrained_loss", "mine_pairs",
           "multi_similarity_loss", "similarity_constrained_loss"]
