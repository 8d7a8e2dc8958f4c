"""The heads of the float branch by name; a new one is a file and a line here."""

from torch import nn

from .gem import GeMHead

# Called with (token width, dimension of the descriptor), a head takes (B, prefix + rows * columns, C) tokens and the grid
# (rows, columns), and gives (B, dimension) descriptors, fp32, of unit length. `fixed_dim` is the only dimension that it
# can have, None where any will do.
AGGREGATORS: dict[str, type[nn.Module]] = {"gem": GeMHead}
