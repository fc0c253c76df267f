"""Pieces that run the real system and record it; each module serves the claims that name it."""
