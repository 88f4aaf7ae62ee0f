"""Run folders: paths, records, digests."""
