"""The command line of scoreflow_jax: python main.py --help."""

from scoreflow_jax.command_line import main

if __name__ == "__main__":
    main()
