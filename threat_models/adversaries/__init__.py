"""One file for each adversary: what it can do, what it sees (as types), and what we do not promise."""
