"""Experiments: one folder each; they import the package, never the other way."""
