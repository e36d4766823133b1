"""The training table, one row per matched jet: read, kept on disk, reweighted, and what its inputs look like."""
