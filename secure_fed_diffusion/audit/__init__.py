"""What can be shown of a run's privacy from outside: canaries, conformance tests, lower bounds, replay."""
