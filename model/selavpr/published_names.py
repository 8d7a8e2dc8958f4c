"""SelaVPR's published state-dict names and ours, one table used both ways."""

# (ours, published); no key of either kind holds more than one of them.
_NAMES = (
    ("local_adapt.", "LocalAdapt."),
    ("pool.p", "aggregation.1.p"),
    (".adapter1.down.", ".adapter1.D_fc1."),
    (".adapter1.up.", ".adapter1.D_fc2."),
    (".adapter2.down.", ".adapter2.D_fc1."),
    (".adapter2.up.", ".adapter2.D_fc2."),
)


def to_own_names(key: str) -> str:
    """A published key, with DataParallel's "module." or without, in our names; our own keys are left alone."""
    key = key.removeprefix("module.")
    for own, published in _NAMES:
        key = key.replace(published, own)
    return key


def to_published_names(key: str) -> str:
    """One of our keys in the published code's names (without "module.")."""
    for own, published in _NAMES:
        key = key.replace(own, published)
    return key
