"""One's own images: extracted, searched, explained, exported."""
