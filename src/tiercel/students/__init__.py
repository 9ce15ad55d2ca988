"""The rungs of the ladder: small models trained for one workload. Training needs the extra `train`; serving does not."""
