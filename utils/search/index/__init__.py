"""The descriptors of many images in a folder: extracted once, searched as often as one likes.

    index = TwoStageIndex.build("city", model=ModelIdentity("3f...", "base gem"), names=names, codes=codes,
                                floats=floats, coordinates=metres)   # or row by row, resumed after a kill: IndexWriter
    index = TwoStageIndex.open("city", model=mine)   # at once, however large; refuses another model's descriptors
    found = index.search(query_codes, query_floats, k=5)             # Hamming distance, then L2 of the best 100
    index.names(found.ids[0]), index.coordinates(found.ids[0])
    index.add(names=..., codes=..., floats=...)      # another drive
    index.remove(["street/0001.jpg", ...])           # a street that was rebuilt
    index.save()                                     # until then others see the index as it was
    index.verify()                                   # every byte is as it was written, or an error says which is not

disk.py says what lies on the disk and how a change is committed; the searches are searchable.py's, which needs no disk.
"""

from .disk import ModelIdentity, RowShape
from .searchable import Found, Searchable
from .two_stage import TwoStageIndex
from .writer import IndexWriter

__all__ = ["Found", "IndexWriter", "ModelIdentity", "RowShape", "Searchable", "TwoStageIndex"]
