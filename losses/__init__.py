"""Training losses: of SelaVPR++, multi-similarity with its miner and what codes learn by (equation 15, Table XI), whole
or cut; of SelaVPR, triplets of descriptors and of local features; of a student, its teacher's descriptors."""

from .ablations import ablated_hashing_losses
from .distillation import code_distillation_loss, float_distillation_loss
from .local_features import Matches, local_feature_loss, mutual_nearest, mutual_similarity
from .locality import gaussian_error_loss, locality_constrained_loss
from .multi_similarity import Pairs, mine_pairs, multi_similarity_loss
from .nested import code_prefixes, distillation_loss, float_prefixes
from .similarity import similarity_constrained_loss
from .triplet import batch_triplets, triplet_loss

__all__ = ["Matches", "Pairs", "ablated_hashing_losses", "batch_triplets", "code_distillation_loss", "code_prefixes",
           "distillation_loss", "float_distillation_loss", "float_prefixes", "gaussian_error_loss",
           "local_feature_loss", "locality_constrained_loss", "mine_pairs", "multi_similarity_loss",
           "mutual_nearest", "mutual_similarity", "similarity_constrained_loss",
           "triplet_loss"]
