"""One run from its plan row to its folder, and what is done with its network afterwards."""
