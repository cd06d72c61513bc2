"""Reports: pure functions of a `Result`, one a file."""
