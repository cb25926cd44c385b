"""`python -m prompt_jax` is the program `prompt-jax`."""

import sys

from prompt_jax.cli.main import main

sys.exit(main())
