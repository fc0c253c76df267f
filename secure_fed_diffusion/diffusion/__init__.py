"""The generative model: network, objective, moving average, sampler.  It knows no client and no privacy."""
