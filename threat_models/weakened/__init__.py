"""Copies of ours with one defence taken out each, for the arm `off` and for the tests.

A function `without_...(patch)` replaces the function that holds the defence and says what it puts there.
`without(...)` applies some of them and undoes them; the tests hand them pytest's own monkeypatch.
"""
