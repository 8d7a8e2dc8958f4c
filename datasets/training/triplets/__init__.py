"""Weak supervision, as SelaVPR trains: which images are near each other, triplets mined from them, their batches."""
