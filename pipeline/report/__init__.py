"""Records in, tables and figures and one page out; no service, no torch."""
