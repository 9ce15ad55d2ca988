"""The rungs of the ladder: small models trained for one workload. Only training needs the extra `train`."""
