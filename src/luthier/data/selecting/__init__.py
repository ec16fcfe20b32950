"""What `select` and its kin go by: models' likelihoods, words, what a set lacks, who wins when two rows meet."""
