"""The three ways to train and to search; a script is one of them."""

MODES: dict[str, tuple[str, ...]] = {  # branches of the model that a mode needs
    "float": ("float",),
    "hashing": ("binary",),
    "rerank": ("float", "binary"),
}
FLAGS: dict[str, tuple[str, ...]] = {"float": (), "hashing": ("hashing",), "rerank": ("hashing", "rerank")}
SCRIPTS = {"hashing": "train_hashing.py or eval_hashing.py", "rerank": "train_rerank.py or eval_rerank.py"}


def protocol(mode: str, rerank_num: int | None = None) -> str:
    """How a mode searches, in words, for the log and results.json."""
    return {"float": "flat L2", "hashing": "Hamming", "rerank": f"Hamming top {rerank_num}, then L2"}[mode]
