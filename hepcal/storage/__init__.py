"""Files that hepcal writes and reads: whole or not at all, sealed by hashes, data and never code."""
