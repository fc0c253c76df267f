"""One file a claim; close relatives share one.  A file is found by its name, `t05_...` for T5."""
