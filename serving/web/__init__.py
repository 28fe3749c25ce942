"""The page: its address, its template and its modules."""
