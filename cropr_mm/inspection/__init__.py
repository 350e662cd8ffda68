"""What became of the tokens: records, maps, similarity and the audit of lost objects."""
