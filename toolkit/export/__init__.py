"""From a merged model folder to files that other programs run."""
