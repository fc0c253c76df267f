"""Attacks that each defence stops, tried against copies of ours that lack it.

Every attack is a function over real frames that returns True if it got what it wanted.  Its twin
`without_...` in `threat_models/weakened` drops exactly one defence, by replacing the function that holds it.
`test_weakened` runs each attack twice: without the defence it must succeed, with it it must fail.  Attacks on
a promise of their own are claims: `threat_models/claims`.
"""
