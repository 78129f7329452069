"""Notebooks to pages: run headless, fresh or stale, published whole."""
