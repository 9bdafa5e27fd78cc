"""What people see of runs under way: status, logs, live tables, requests to stop."""
