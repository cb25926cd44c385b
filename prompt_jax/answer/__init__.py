"""Questions to answers: batches, buckets, and files that answers are kept in."""
