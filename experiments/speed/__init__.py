"""What a private step, a round and an evaluation cost, against what the project demands."""
