"""Evidence: outcomes and who is charged, the guard of the data path, histograms."""
