"""What one institution installs and runs: its data, its key, its policy and its budget, in one file."""
