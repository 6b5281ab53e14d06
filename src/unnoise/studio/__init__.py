"""A run as plain data (run_folder), and as one page in a browser (page, static/)."""
