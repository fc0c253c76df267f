"""The round: its plan, what a client does, what the server does, and the loop that joins them by frames."""
