"""A scikit-learn app and a torch one, each three times: plain, with SecAgg+, with our secure aggregation."""
