"""Real image sets, their fixed splits, and the ways to deal the private one out to clients.

`settings` says which, `facts` and `sources` what is known of it without a file; `formats` parses,
`published` finds and verifies, `datasets` loads, `fetch` downloads when asked to, `partition` deals.
They need numpy alone (the digits scikit-learn, SVHN scipy, and `command` what `sfd` needs).
"""
