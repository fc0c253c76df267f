"""Many runs from one grid: each cell a product run in its own folder and process, and one table of all."""
