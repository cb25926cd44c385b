"""SeqIO text to the arrays of a step."""
