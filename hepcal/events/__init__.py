"""ROOT events in, jets and columns out, every event counted: nothing here loads torch."""
