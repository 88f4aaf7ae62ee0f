"""Work on many machines with Ray: prediction of shards and the cells of studies."""
