"""SelaVPR, the predecessor: its models, training by mined triplets, and re-ranking by local features."""
