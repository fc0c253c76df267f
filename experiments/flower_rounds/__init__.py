"""Seconds of a secure round on a real Flower deployment, by part, beside plain FedAvg and SecAgg+."""
