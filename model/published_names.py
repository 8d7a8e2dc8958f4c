"""The published code's state-dict names and ours, one table used both ways."""

# (ours, published), first match wins. The heads of the float branch share a place, in both kinds of names: no two of
# them begin alike there, so that a key needs no word about whose it is.
_PREFIXES = (
    ("float_branch.side.adapters.", "backbone.adapters."),
    ("binary_branch.side.adapters.", "backbone.adapters_hashing."),
    ("float_branch.head.project.", "linear1."),
    ("float_branch.head.expand.", "linear2."),
    ("binary_branch.head.project.", "linear3."),
    ("binary_branch.head.expand.", "linear4."),
    ("float_branch.head.pool.", "aggregation.1."),
    ("binary_branch.head.pool.", "aggregation_hashing.1."),
    # BoQ; inside a layer the names are the same.
    ("float_branch.head.reduce.", "aggregation.proj_c."),
    ("float_branch.head.norm.", "aggregation.norm_input."),
    ("float_branch.head.layers.", "aggregation.boqs."),
    ("float_branch.head.mix.", "aggregation.fc."),
    # SALAD.
    ("float_branch.head.token.", "aggregation.token_features."),
    ("float_branch.head.features.", "aggregation.cluster_features."),
    ("float_branch.head.scores.", "aggregation.score."),
    ("float_branch.head.dustbin", "aggregation.dust_bin"),
)
# Inside an adapter, after its number.
_ADAPTER = (
    ("down.", "D_fc1."),
    ("up.", "D_fc2."),
    ("conv1x1.", "branch1."),
    ("reduce3x3.", "branch2.0."),
    ("conv3x3.", "branch2.1."),
    ("reduce5x5.", "branch3.0."),
    ("conv5x5.", "branch3.1."),
)


def _swap(key: str, table: tuple[tuple[str, str], ...], source: int) -> str:
    for pair in table:
        if key.startswith(pair[source]):
            return pair[1 - source] + key[len(pair[source]):]
    return key


def _rename(key: str, source: int) -> str:
    renamed = _swap(key, _PREFIXES, source)
    head, adapters, rest = renamed.partition(".adapters_hashing." if ".adapters_hashing." in renamed else ".adapters.")
    if not adapters:
        return renamed
    number, dot, inner = rest.partition(".")
    return head + adapters + number + dot + _swap(inner, _ADAPTER, source)


def to_own_names(key: str) -> str:
    """A published key, with DataParallel's "module." or without, in our names; our own keys are left alone."""
    return _rename(key.removeprefix("module."), 1)


def to_published_names(key: str) -> str:
    """One of our keys in the published code's names (without "module.")."""
    return _rename(key, 0)
