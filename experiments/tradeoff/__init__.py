"""The privacy-utility curve of five modes, beside what a user would pick instead."""
