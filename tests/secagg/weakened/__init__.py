"""Deliberately weakened copies of ours, and the attacks that each defence stops.

Every attack is a function over real frames that returns True if it got what it wanted.  Its twin
`without_...` drops exactly one defence, by replacing the function that holds it.  `test_weakened` runs
each attack twice: without the defence it must succeed, with it it must fail.
"""
