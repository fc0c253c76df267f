"""The same data dealt out to more clients: what a private step takes then."""
