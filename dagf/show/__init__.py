"""What a notebook shows: figures, rankings, the query browser, and the live search."""
