"""One index on disk, searched in two stages: Hamming distance on codes, then L2 on the best candidates' descriptors."""

from .files import ModelIdentity, RowShape
from .search import Found, Searchable
from .two_stage import TwoStageIndex
from .writer import IndexWriter

__all__ = ["Found", "IndexWriter", "ModelIdentity", "RowShape", "Searchable", "TwoStageIndex"]
