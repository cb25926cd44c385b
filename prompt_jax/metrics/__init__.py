"""Metrics of texts and vectors, as SeqIO tasks take them."""
