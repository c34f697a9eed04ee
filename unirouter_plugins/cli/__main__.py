"""`python -m unirouter_plugins.cli`, the same as `unirouter`."""

from unirouter_plugins.cli import app

if __name__ == "__main__":
    app(prog_name="unirouter")
