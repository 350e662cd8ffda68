"""Which ground-truth objects lost their tokens."""
