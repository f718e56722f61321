"""`python -m truing`, which is the command `truing`: so `torchrun -m truing run recipe.toml` starts it."""

from truing.cli import main

if __name__ == "__main__":
    main()
