"""SeqIO registrations: text-to-text tasks by name. `prompt_jax.tasks.text` finds and reads them."""
