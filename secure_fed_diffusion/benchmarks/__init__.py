"""Timings of the package's own parts, each as a ratio to a ceiling or a peer measured in the same run."""
