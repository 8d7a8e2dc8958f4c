"""Search of codes and float descriptors, in memory and on disk; needs neither `datasets` nor `model`."""

from .exact import merge_ranked, pack_codes, rerank_hamming, rerank_l2, search_hamming, search_l2
from .index import Found, IndexWriter, ModelIdentity, RowShape, Searchable, TwoStageIndex
from .stores import STORES, StoredRows, store_rows

__all__ = ["STORES", "Found", "IndexWriter", "ModelIdentity", "RowShape", "Searchable", "StoredRows", "TwoStageIndex",
           "merge_ranked", "pack_codes", "rerank_hamming", "rerank_l2", "search_hamming", "search_l2", "store_rows"]
