"""How secure aggregation grows with the number of clients, and what a large model costs in memory."""
