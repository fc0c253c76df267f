"""`python -m secure_fed_diffusion` is `sfd`."""

from secure_fed_diffusion.cli import main

if __name__ == "__main__":
    main()
