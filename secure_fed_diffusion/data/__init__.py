"""Real image sets, their fixed splits, and the ways to deal the private one out to clients.

`settings` says which, `datasets` loads and verifies, `partition` deals; all three need numpy alone
(the digits need scikit-learn as well).
"""
