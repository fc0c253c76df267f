"""The app whose rounds are timed."""
