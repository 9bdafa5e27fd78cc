"""Ray: sessions, the grid of runs, the search, the live table. The only files that import ray."""
