"""One's own images: described, searched, explained, exported."""
