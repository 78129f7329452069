"""The exploratory tables on photographs."""
