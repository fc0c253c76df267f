"""Executable threat models: one file an adversary.  They import the package, never the other way."""
