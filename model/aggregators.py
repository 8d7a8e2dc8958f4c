"""The heads of the float branch by name; a new one is a file and a line here."""

from torch import nn

from .layers.boq import BoQHead
from .layers.gem import GeMHead
from .layers.salad import SaladHead

# Made with (token width, dimension of the descriptor), a head is called with tokens (B, prefix + rows * columns, C)
# and the grid (rows, columns), and gives descriptors (B, dimension), fp32, of unit length. `fixed_dim` is the only
# dimension that it can have, None where any will do.
AGGREGATORS: dict[str, type[nn.Module]] = {"gem": GeMHead, "boq": BoQHead, "salad": SaladHead}
