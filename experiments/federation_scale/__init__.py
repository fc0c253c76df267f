"""A federation of a thousand clients, and a model of 35 million parameters."""
