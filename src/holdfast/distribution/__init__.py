"""Learning over distributions: embeddings of sample sets, conditional generators, mixtures, singular laws, subsets."""
