"""What a notebook shows: figures, rankings and the query browser."""
