"""The commands of `sfd`; what is heavy is imported by the one that needs it, so `--help` answers at once."""
