"""From configurations to the rows of the plan: what is run, what it costs, what it needs."""
